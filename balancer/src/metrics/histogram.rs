//! The bounds that times of requests are shown by. Pure.

use std::time::Duration;

use balancer_steering::bounds::Bounds;

/// What people ask for, in microseconds. Each bound is the end of a fine bucket next to one of these.
const MICROSECONDS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// The bounds of all histograms.
pub fn bounds() -> Bounds {
    Bounds::near(MICROSECONDS.map(Duration::from_micros))
}

/// The bounds in seconds, and last the one that is above all times.
pub fn ends(bounds: &Bounds) -> impl Iterator<Item = f64> {
    bounds.times().map(|time| time.as_secs_f64()).chain([f64::INFINITY])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_bound_and_the_last_has_none() {
        let bounds = bounds();
        let counts = bounds.fold(|_| 1);
        let ends: Vec<f64> = ends(&bounds).collect();
        assert_eq!((ends.len(), counts.counts.len()), (MICROSECONDS.len() + 1, ends.len()));
        assert!(ends.is_sorted_by(|a, b| a < b), "{ends:?}");
        assert_eq!(ends.last(), Some(&f64::INFINITY));
    }

    #[test]
    fn a_bound_is_within_two_percent_of_the_round_time() {
        for (bound, micros) in bounds().times().zip(MICROSECONDS) {
            let off = bound.as_secs_f64() / Duration::from_micros(micros).as_secs_f64() - 1.0;
            assert!(off.abs() < 0.02, "{bound:?} for {micros} µs");
        }
    }
}
