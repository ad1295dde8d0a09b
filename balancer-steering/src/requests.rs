//! What is known of requests, by member: how many are under way, and how long answers took. Pure.
//!
//! The kernel sees data arrive on a connection, the worker read it, and the worker write. The first data
//! since the last answer begins a request, and the next write answers it. So with pipelining, or streams
//! within a connection (HTTP/2), a time is that from data to the next write.

use std::time::Duration;

use balancer_common::histogram::{BUCKETS, bucket, start};

/// How often which time was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into() }
    }
}

impl Histogram {
    /// Of the counts of all buckets.
    pub(crate) fn new(counts: impl Iterator<Item = u64>) -> Self {
        Self { counts: counts.collect() }
    }

    /// Counts a time.
    pub fn record(&mut self, time: Duration) {
        self.counts[bucket(nanoseconds(time))] += 1;
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together, each as the middle of its bucket: within 1.6 %.
    pub fn sum(&self) -> Duration {
        let each = self.buckets().map(|(time, count)| time.as_secs_f64() * count as f64);
        Duration::try_from_secs_f64(each.sum()).unwrap_or(Duration::MAX)
    }

    /// The time that a share of them, 0 to 1, does not exceed: the middle of its bucket. `None` of nothing.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank, clamped to the count"
        )]
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let found = self.counts.iter().position(|more| {
            seen += more;
            seen >= rank
        })?;
        Some(Duration::from_nanos(u64::midpoint(start(found), start(found + 1))))
    }

    /// How many were shorter than a time, which is rounded to the next end of a bucket.
    pub fn below(&self, time: Duration) -> u64 {
        let nanoseconds = nanoseconds(time);
        let ends = (1..=BUCKETS).take_while(|&next| start(next) <= nanoseconds);
        self.counts[..ends.count()].iter().sum()
    }

    /// What was counted since an earlier reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = self.counts.iter().zip(&earlier.counts);
        Self { counts: counts.map(|(now, before)| now.saturating_sub(*before)).collect() }
    }

    /// The counts that are not zero, with the middle of their bucket, shortest first.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let middle = |at| Duration::from_nanos(u64::midpoint(start(at), start(at + 1)));
        let all = self.counts.iter().enumerate();
        all.filter(|(_, count)| **count > 0).map(move |(at, count)| (middle(at), *count))
    }
}

impl std::ops::AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What is known of a member's requests, since somebody observes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Place of the member in the socket array.
    pub slot: u32,
    /// Cookie of the member's socket: another one has counts of its own, from 0.
    pub tenant: u64,
    /// Connections that owe an answer, and new ones on which nothing has arrived yet.
    pub busy: u64,
    /// Of these, the ones that owe an answer.
    pub owing: u64,
    /// From the arrival of a request to the first octet of its answer. As many as were answered.
    pub to_answer: Histogram,
    /// From the arrival of data until the worker read it.
    pub to_read: Histogram,
    /// From the end of the handshake to the first octet of the first answer.
    pub to_first: Histogram,
    /// Of `to_answer` those on connections that were established since
    /// [`Experiment::tell_apart`](crate::steering::Experiment::tell_apart) was last called by then. They are
    /// counted on after the next call, so two readings differ by a block's own if no call is between them.
    pub apart_to_answer: Histogram,
    /// As `apart_to_answer`, of `to_read`.
    pub apart_to_read: Histogram,
}

impl Requests {
    /// How many were answered.
    pub fn answered(&self) -> u64 {
        self.to_answer.count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(micros: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for &micros in micros {
            histogram.record(Duration::from_micros(micros));
        }
        histogram
    }

    proptest! {
        #[test]
        fn a_quantile_is_that_of_the_times_within_two_percent(
            mut micros in prop::collection::vec(10..100_000_000u64, 1..200), share in 0.0..=1.0f64,
        ) {
            let found = histogram(&micros).quantile(share).unwrap().as_secs_f64() * 1e6;
            micros.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
            let rank = ((share * micros.len() as f64).ceil() as usize).clamp(1, micros.len());
            let exact = micros[rank - 1] as f64;
            prop_assert!((found / exact - 1.0).abs() < 0.02, "{found} for {exact}");
        }

        #[test]
        fn what_came_since_and_what_was_before_are_all(
            before in prop::collection::vec(0..10_000_000u64, 0..50),
            since in prop::collection::vec(0..10_000_000u64, 0..50),
        ) {
            let all = histogram(&[before.clone(), since.clone()].concat());
            prop_assert_eq!(all.since(&histogram(&before)), histogram(&since));
            let mut sum = histogram(&before);
            sum += &histogram(&since);
            prop_assert_eq!(sum, all);
        }
    }

    #[test]
    fn of_nothing_there_is_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn times_below_a_bound_are_counted() {
        let histogram = histogram(&[100, 1_000, 10_000]);
        let below =
            [50, 500, 5_000, 50_000].map(|micros| histogram.below(Duration::from_micros(micros)));
        assert_eq!(below, [0, 1, 2, 3]);
        assert_eq!(histogram.buckets().count(), 3);
    }
}
