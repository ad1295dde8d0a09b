//! Median, smallest and largest of a few rounds. Pure.

use serde::Serialize;

/// How the rounds of one measurement came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All, in their order.
    pub rounds: Vec<f64>,
}

impl Spread {
    /// Of at least one round; of none, all is NaN.
    pub fn of(rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            min: at(0),
            max: at(last),
            rounds,
        }
    }

    /// Of what two measurements of the same rounds make together.
    pub fn of_pairs(ours: &[f64], theirs: &[f64], combine: impl Fn(f64, f64) -> f64) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(&ours, &theirs)| combine(ours, theirs)).collect())
    }
}

/// The order of `len` contenders in a round: each round begins with the next one, so that none
/// always runs after the same pause or under the same drift.
pub fn rotation(len: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..len).map(move |step| (step + round) % len)
}
