//! What a distribution says: how many, how much on average, and below what most of it stays.

use std::collections::BTreeMap;

use super::report::Distribution;

impl Distribution {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&(_, count)| count).sum()
    }

    /// Their arithmetic mean; of none, none.
    pub fn mean(&self) -> Option<f64> {
        let sum: f64 = self.0.iter().map(|&(value, count)| value as f64 * count as f64).sum();
        let count = self.count();
        (count > 0).then(|| sum / count as f64)
    }

    /// The largest value.
    pub fn max(&self) -> Option<u64> {
        self.quantile(1.0)
    }

    /// The smallest value that at least this part of all values is not above.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        // A quotient is rounded correctly, so that 99 of 100 are 0.99; a product might not be.
        self.cumulated().find(|&(_, below)| below >= part).map(|(value, _)| value)
    }

    /// Each value, rising, and the part of all that is not above it.
    pub fn cumulated(&self) -> impl Iterator<Item = (u64, f64)> {
        let whole = self.count() as f64;
        let seen =
            self.0.iter().filter(|&&(_, count)| count > 0).scan(0, |seen, &(value, count)| {
                *seen += count;
                Some((value, *seen))
            });
        seen.map(move |(value, seen)| (value, seen as f64 / whole))
    }

    /// All values of several distributions.
    pub fn merged<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut counts = BTreeMap::new();
        for &(value, count) in all.into_iter().flat_map(|distribution| &distribution.0) {
            *counts.entry(value).or_default() += count;
        }
        Self(counts.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hundred() -> Distribution {
        Distribution((1..=100).map(|value| (value, 1)).collect())
    }

    #[test]
    fn a_quantile_is_the_smallest_value_that_enough_are_not_above() {
        let all = hundred();
        for percent in 1..=100 {
            assert_eq!(all.quantile(percent as f64 / 100.0), Some(percent));
        }
        assert_eq!(all.quantile(0.999), Some(100));
        assert_eq!(all.quantile(0.501), Some(51));
    }

    #[test]
    fn the_largest_of_fewer_than_a_thousand_is_their_p999() {
        let few = Distribution(vec![(10, 998), (70, 1)]);
        assert_eq!((few.quantile(0.999), few.quantile(0.99)), (Some(70), Some(10)));
        let many = Distribution(vec![(10, 999), (70, 1)]);
        assert_eq!((many.quantile(0.999), many.max()), (Some(10), Some(70)));
    }

    #[test]
    fn the_mean_goes_by_how_often_a_value_was_seen() {
        assert_eq!(Distribution(vec![(10, 3), (50, 1)]).mean(), Some(20.0));
    }

    #[test]
    fn of_nothing_there_is_neither_mean_nor_quantile() {
        for none in [Distribution::default(), Distribution(vec![(5, 0)])] {
            assert_eq!((none.count(), none.mean()), (0, None));
            assert_eq!((none.quantile(0.5), none.max()), (None, None));
        }
    }

    #[test]
    fn what_is_merged_counts_as_if_it_had_been_seen_together() {
        let one = Distribution(vec![(1, 2), (5, 1)]);
        let other = Distribution(vec![(3, 1), (5, 4)]);
        let both = Distribution::merged([&one, &other]);
        assert_eq!(both, Distribution(vec![(1, 2), (3, 1), (5, 5)]));
        let steps: Vec<_> = both.cumulated().collect();
        assert_eq!(steps, [(1, 0.25), (3, 0.375), (5, 1.0)]);
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_below_a_lower_one(
            values in prop::collection::btree_map(0..10_000u64, 1..50u64, 1..40),
            low in 0.0..1.0f64,
            high in 0.0..1.0f64,
        ) {
            let distribution = Distribution(values.into_iter().collect());
            let (low, high) = (low.min(high), low.max(high));
            prop_assert!(distribution.quantile(low) <= distribution.quantile(high));
        }
    }
}
