//! The bounds that times of requests are shown by. Pure.

use std::time::Duration;

use balancer_steering::bounds::{BoundedCounts, Bounds};

/// What people ask for, in microseconds. Each bound is the end of a fine bucket next to one of these.
const MICROSECONDS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// The bounds of all histograms.
pub fn bounds() -> Bounds {
    Bounds::near(MICROSECONDS.map(Duration::from_micros))
}

/// The counts between the bounds, each with the bound above it in seconds; above the last is none.
pub fn buckets(bounds: &Bounds, counts: &BoundedCounts) -> Vec<(f64, u64)> {
    let ends = bounds.times().map(|time| time.as_secs_f64()).chain([f64::INFINITY]);
    ends.zip(counts.counts.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_bound_and_the_last_has_none() {
        let bounds = bounds();
        let counts = bounds.fold(|_| 1);
        let buckets = buckets(&bounds, &counts);
        assert_eq!(buckets.len(), MICROSECONDS.len() + 1);
        assert!(buckets.iter().is_sorted_by(|a, b| a.0 < b.0), "{buckets:?}");
        assert_eq!(buckets.last().map(|bucket| bucket.0), Some(f64::INFINITY));
        assert_eq!(buckets.iter().map(|bucket| bucket.1).sum::<u64>(), counts.count());
    }

    #[test]
    fn a_bound_is_within_two_percent_of_the_round_time() {
        for (bound, micros) in bounds().times().zip(MICROSECONDS) {
            let off = bound.as_secs_f64() / Duration::from_micros(micros).as_secs_f64() - 1.0;
            assert!(off.abs() < 0.02, "{bound:?} for {micros} µs");
        }
    }
}
