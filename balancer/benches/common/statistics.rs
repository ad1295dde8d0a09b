//! What many short rounds say together. Pure.
//!
//! Many and short, because a machine has slow spells: of each kind of load, about the same share
//! of the rounds falls into one, and neither median nor quartiles care how slow it was.

use serde::Serialize;

/// How the rounds of one measurement came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the rounds are below.
    pub median: f64,
    /// A quarter of the rounds is below the first, a quarter above the second.
    pub quartiles: [f64; 2],
    /// The smallest and the largest.
    pub range: [f64; 2],
    /// All, in their order.
    pub rounds: Vec<f64>,
}

impl Spread {
    /// Of at least one round; of none, all is NaN.
    pub fn of(rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |quarter| quantile(&sorted, quarter);
        Self { median: at(2), quartiles: [at(1), at(3)], range: [at(0), at(4)], rounds }
    }

    /// Of what two measurements of the same rounds make together.
    pub fn of_pairs(ours: &[f64], theirs: &[f64], combine: impl Fn(f64, f64) -> f64) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(&ours, &theirs)| combine(ours, theirs)).collect())
    }
}

/// What so many quarters of sorted values are below; between two of them, in proportion.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let quarters = sorted.len().saturating_sub(1) * quarters;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let (below, above) = (at(quarters / 4), at(quarters.div_ceil(4)));
    below + (above - below) * (quarters % 4) as f64 / 4.0
}

/// The order of `len` contenders in a round: each round begins with the next one, so that none
/// always runs after the same pause or under the same drift.
pub fn rotation(len: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..len).map(move |step| (step + round) % len)
}
