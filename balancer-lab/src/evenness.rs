//! How evenly a load is spread over the workers, and whether chance explains what is uneven.

use statrs::{
    distribution::{ChiSquared, ContinuousCDF as _},
    statistics::Statistics as _,
};

use super::ratio::median;

/// Below this expectation the chi-squared distribution is no good approximation (Cochran 1954).
const LEAST_EXPECTED: f64 = 5.0;

/// How evenly something is spread, measured against the shares that were expected: each worker's
/// part is divided by its expected share, so that weights that are met exactly are even.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evenness {
    /// Standard deviation, in what was counted. The workers are all there are, no sample.
    pub deviation: f64,
    /// Coefficient of variation: the deviation over the mean. 0 is even.
    pub variation: f64,
    /// The largest part over the mean. 1 is even.
    pub peak: f64,
    /// Jain's index: 1 is even, and `1 / n` is one worker that has it all (Jain, Chiu, Hawe, "A
    /// quantitative measure of fairness and discrimination for resource allocation in shared
    /// computer systems", DEC TR-301, 1984). It is `1 / (1 + variation²)`.
    pub jain: f64,
}

impl Evenness {
    /// That of some counts. `expected` are as many shares, above 0, that sum to 1. Of nothing at
    /// all there is none.
    pub fn of(counts: &[u64], expected: &[f64]) -> Option<Self> {
        let parts: Vec<f64> = counts
            .iter()
            .zip(expected)
            .map(|(&count, share)| count as f64 / (share * counts.len() as f64))
            .collect();
        let mean = (&parts).mean();
        if counts.iter().all(|&count| count == 0) {
            return None;
        }
        let sum: f64 = parts.iter().sum();
        let squares: f64 = parts.iter().map(|part| part * part).sum();
        let deviation = (&parts).population_std_dev();
        Some(Self {
            deviation,
            variation: deviation / mean,
            peak: (&parts).max() / mean,
            jain: sum * sum / (parts.len() as f64 * squares),
        })
    }

    /// The median of each figure; of none, none.
    pub fn median(all: &[Self]) -> Option<Self> {
        let of = |figure: fn(&Self) -> f64| median(&mut all.iter().map(figure).collect::<Vec<_>>());
        (!all.is_empty()).then(|| Self {
            deviation: of(|evenness| evenness.deviation),
            variation: of(|evenness| evenness.variation),
            peak: of(|evenness| evenness.peak),
            jain: of(|evenness| evenness.jain),
        })
    }
}

/// As many equal shares.
pub fn equal(workers: usize) -> Vec<f64> {
    vec![1.0 / workers as f64; workers]
}

/// The shares that weights stand for.
pub fn by_weight(weights: &[u16]) -> Vec<f64> {
    let sum: f64 = weights.iter().copied().map(f64::from).sum();
    weights.iter().map(|&weight| f64::from(weight) / sum).collect()
}

/// Pearson's chi-squared test: how likely it is that choices made independently, by chance and with
/// the expected shares, come out at least as uneven as these. A small number says that the shares
/// are others, or the choices not independent; one near 1 that they are more even than chance. None
/// where there are fewer than two workers, or fewer than five choices expected of one.
pub fn chance(counts: &[u64], expected: &[f64]) -> Option<f64> {
    let whole = counts.iter().sum::<u64>() as f64;
    let expected: Vec<f64> = expected.iter().map(|share| share * whole).collect();
    if counts.len() < 2 || expected.iter().any(|&count| count < LEAST_EXPECTED) {
        return None;
    }
    let square = |(&count, expected): (&u64, &f64)| (count as f64 - expected).powi(2) / expected;
    let statistic: f64 = counts.iter().zip(&expected).map(square).sum();
    let distribution = ChiSquared::new(counts.len() as f64 - 1.0).ok()?;
    Some(distribution.sf(statistic))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-4, "{actual} is not {expected}");
    }

    #[test]
    fn of_known_counts_the_measures_are_the_known_ones() {
        // Mean 5, variance 4: the textbook's example of a population.
        let evenness = Evenness::of(&[2, 4, 4, 4, 5, 5, 7, 9], &equal(8)).unwrap();
        near(evenness.deviation, 2.0);
        near(evenness.variation, 0.4);
        near(evenness.peak, 1.8);
        near(evenness.jain, 1.0 / 1.16);
    }

    #[test]
    fn one_worker_that_has_it_all_is_as_uneven_as_can_be() {
        let evenness = Evenness::of(&[40, 0, 0, 0], &equal(4)).unwrap();
        near(evenness.jain, 0.25);
        near(evenness.peak, 4.0);
    }

    #[test]
    fn the_median_is_that_of_each_figure() {
        let all = [[4, 0], [2, 2], [3, 1]].map(|counts| Evenness::of(&counts, &equal(2)).unwrap());
        assert_eq!(Evenness::median(&all), Some(all[2]));
        assert_eq!(Evenness::median(&[]), None);
    }

    #[test]
    fn weights_that_are_met_are_even() {
        let evenness = Evenness::of(&[100, 400, 400, 400], &by_weight(&[1, 4, 4, 4])).unwrap();
        near(evenness.variation, 0.0);
        near(evenness.jain, 1.0);
        near(chance(&[100, 400, 400, 400], &by_weight(&[1, 4, 4, 4])).unwrap(), 1.0);
    }

    #[test]
    fn of_nothing_there_is_no_evenness() {
        assert_eq!(Evenness::of(&[0, 0], &equal(2)), None);
        assert_eq!(Evenness::of(&[], &[]), None);
    }

    #[test]
    fn the_test_gives_the_tabled_probabilities() {
        // A die thrown 60 times: statistic 13.4 with 5 degrees of freedom.
        near(chance(&[5, 8, 9, 8, 10, 20], &equal(6)).unwrap(), 0.019_905);
        // Mendel's peas, 9:3:3:1: 0.470 with 3 degrees of freedom.
        near(chance(&[315, 101, 108, 32], &by_weight(&[9, 3, 3, 1])).unwrap(), 0.925_426);
        near(chance(&[10, 10, 10, 10], &equal(4)).unwrap(), 1.0);
    }

    #[test]
    fn too_few_choices_are_not_tested() {
        assert_eq!(chance(&[4, 5, 5, 5], &equal(4)), None);
        assert!(chance(&[5, 5, 5, 5], &equal(4)).is_some());
        assert_eq!(chance(&[100], &equal(1)), None);
    }

    proptest! {
        #[test]
        fn jains_index_lies_between_one_nth_and_one_and_goes_with_the_variation(
            counts in prop::collection::vec(0..100_000u64, 1..17),
        ) {
            if let Some(evenness) = Evenness::of(&counts, &equal(counts.len())) {
                let least = 1.0 / counts.len() as f64;
                prop_assert!((least - 1e-9..=1.0 + 1e-9).contains(&evenness.jain));
                let same = 1.0 / (1.0 + evenness.variation.powi(2));
                prop_assert!((evenness.jain - same).abs() < 1e-9);
            }
        }

        #[test]
        fn equal_counts_are_even(count in 1..100_000u64, workers in 1..17usize) {
            let evenness = Evenness::of(&vec![count; workers], &equal(workers)).unwrap();
            prop_assert!(evenness.variation < 1e-9);
            prop_assert!((evenness.jain - 1.0).abs() < 1e-9);
            prop_assert!((evenness.peak - 1.0).abs() < 1e-9);
        }
    }
}
