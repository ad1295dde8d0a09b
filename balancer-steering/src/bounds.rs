//! Few bounds in place of a histogram's 800 buckets, for whoever wants no finer counts. Pure.

use std::time::Duration;

use balancer_common::histogram::{BUCKETS, bucket, start};

/// Bounds that times are counted between. Each is an end of a [`Histogram`](crate::requests::Histogram)'s
/// bucket, so no time is counted on the wrong side of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The bucket that begins at each bound, in ascending order.
    next: Vec<usize>,
}

/// How often which time was seen, between bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundedCounts {
    /// Times below the first bound, from each bound to the next, and last those from the last bound on.
    pub counts: Vec<u64>,
    /// All times together, each as the middle of its bucket: within 1.6 %.
    pub sum: Duration,
}

impl Bounds {
    /// The ends of buckets that are nearest to some times.
    pub fn near(times: impl IntoIterator<Item = Duration>) -> Self {
        let nearest = |time: Duration| {
            let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let bucket = bucket(nanoseconds);
            let (below, above) = (start(bucket), start(bucket + 1));
            let down = nanoseconds.abs_diff(below) < nanoseconds.abs_diff(above);
            // 0 bounds nothing.
            if down { bucket.max(1) } else { bucket + 1 }
        };
        let mut next: Vec<usize> = times.into_iter().map(nearest).collect();
        next.sort_unstable();
        next.dedup();
        Self { next }
    }

    /// Where each is.
    pub fn times(&self) -> impl Iterator<Item = Duration> {
        self.next.iter().map(|&next| Duration::from_nanos(start(next)))
    }

    /// Counts between the bounds what was counted in each bucket.
    pub fn fold(&self, count: impl Fn(usize) -> u64) -> BoundedCounts {
        let mut sum = 0u128;
        let mut begin = 0;
        let ends = self.next.iter().copied().chain([BUCKETS]);
        let counts = ends.map(|end| {
            let mut between = 0u64;
            for bucket in begin..end.min(BUCKETS) {
                let count = count(bucket);
                if count != 0 {
                    between = between.saturating_add(count);
                    let middle = u64::midpoint(start(bucket), start(bucket + 1));
                    sum = sum.saturating_add(u128::from(count) * u128::from(middle));
                }
            }
            begin = end;
            between
        });
        let counts = counts.collect();
        Self::summed(counts, sum)
    }

    fn summed(counts: Vec<u64>, nanoseconds: u128) -> BoundedCounts {
        const SECOND: u128 = 1_000_000_000;
        let part = u32::try_from(nanoseconds % SECOND).unwrap_or_default();
        let whole = u64::try_from(nanoseconds / SECOND);
        let sum = whole.map_or(Duration::MAX, |whole| Duration::new(whole, part));
        BoundedCounts { counts, sum }
    }
}

impl BoundedCounts {
    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// What is known of a member's requests, between bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundedRequests {
    /// Place of the member in the socket array.
    pub slot: u32,
    /// Connections that owe an answer.
    pub owing: u64,
    /// From the arrival of a request to the first octet of its answer.
    pub to_answer: BoundedCounts,
    /// From the arrival of data until the worker read it.
    pub to_read: BoundedCounts,
    /// From the end of the handshake to the first octet of the first answer.
    pub to_first: BoundedCounts,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::requests::Histogram;

    proptest! {
        #[test]
        fn between_bounds_there_are_as_many_as_a_histogram_counts_below_them(
            micros in prop::collection::vec(0..200_000_000u64, 0..200),
            bounds in prop::collection::vec(1..100_000_000u64, 0..20),
        ) {
            let mut counts = vec![0u64; BUCKETS];
            let mut histogram = Histogram::default();
            for time in micros.iter().map(|&micros| Duration::from_micros(micros)) {
                counts[bucket(u64::try_from(time.as_nanos()).unwrap())] += 1;
                histogram.record(time);
            }
            let bounds = Bounds::near(bounds.into_iter().map(Duration::from_micros));
            let folded = bounds.fold(|bucket| counts[bucket]);
            let mut below = 0;
            for (time, count) in bounds.times().zip(&folded.counts) {
                below += count;
                prop_assert_eq!(below, histogram.below(time));
            }
            prop_assert_eq!(folded.count(), histogram.count());
            let off = folded.sum.as_secs_f64() - histogram.sum().as_secs_f64();
            prop_assert!(off.abs() < 1e-6, "{off}");
        }

        #[test]
        fn a_bound_is_within_two_percent_of_the_time_that_was_asked_for(
            micros in 10..100_000_000u64,
        ) {
            let time = Duration::from_micros(micros);
            let bound = Bounds::near([time]).times().next().unwrap();
            let off = bound.as_secs_f64() / time.as_secs_f64() - 1.0;
            prop_assert!(off.abs() < 0.02, "{bound:?} for {time:?}");
        }
    }

    #[test]
    fn counts_without_end_are_no_overflow() {
        let folded = Bounds::near([Duration::from_secs(1)]).fold(|_| u64::MAX);
        assert_eq!(folded.counts, [u64::MAX; 2]);
        assert_eq!(folded.count(), u64::MAX);
    }
}
