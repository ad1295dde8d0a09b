//! A figure of one policy against that of another, by rounds. Pure.
//!
//! In each round the order of the policies was drawn, so without a difference each round's ratio is as likely
//! above 1 as below, whatever the traffic did: that is tested by permutation (Fisher's, of signs). The interval
//! is Student's on the logarithms of the ratios.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::{
    distribution::{ContinuousCDF as _, StudentsT},
    statistics::Statistics as _,
};

/// With fewer rounds the test of signs cannot reach 5 %.
pub const LEAST_ROUNDS: usize = 6;

/// A ratio that is nearer to 1 than this is no difference that matters, however sure it is.
const LEAST_DIFFERENCE: f64 = 0.01;

/// Up to so many rounds all changes of sign are tried; of more, so many are drawn.
const ALL: usize = 13;
const DRAWN: u32 = 10_000;

/// The chance of an error that a verdict takes, over all comparisons of an experiment.
const LEVEL: f64 = 0.05;

/// The difference that [`Contrast::rounds_needed`] is about, and how surely it is to be found.
const TO_TELL: f64 = 1.05;
const POWER_QUANTILE: f64 = 0.8416;
const LEVEL_QUANTILE: f64 = 1.96;

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Lower than the baseline's.
    Lower,
    /// Higher than the baseline's.
    Higher,
    /// Not told apart.
    NoDifference,
    /// Fewer than [`LEAST_ROUNDS`] rounds.
    TooFew,
}

/// A figure of one policy over the baseline's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contrast {
    /// The geometric mean of the rounds' ratios.
    pub ratio: f64,
    /// Where that is with 95 % confidence, by itself.
    pub low: f64,
    /// As `low`, the upper end.
    pub high: f64,
    /// The rounds in which both have the figure.
    pub rounds: usize,
    /// The chance of such ratios if there were no difference, corrected for all comparisons by
    /// [`correct`].
    pub p: f64,
    /// Rounds after which a difference of 5 % would be told in four of five experiments; `None` of too few.
    pub rounds_needed: Option<u64>,
    /// What that says.
    pub verdict: Verdict,
}

impl Contrast {
    /// Of pairs: what a policy and what the baseline had in the same round, each above 0. `None` of fewer
    /// than two.
    pub fn of(pairs: &[(f64, f64)], seed: u64) -> Option<Self> {
        let usable = pairs.iter().filter(|(ours, base)| *ours > 0.0 && *base > 0.0);
        let logs: Vec<f64> = usable.map(|(ours, base)| (ours / base).ln()).collect();
        if logs.len() < 2 {
            return None;
        }
        let (mean, deviation) = ((&logs).mean(), (&logs).std_dev());
        let count = logs.len() as f64;
        let t = StudentsT::new(0.0, 1.0, count - 1.0).ok()?.inverse_cdf(1.0 - LEVEL / 2.0);
        let around = t * deviation / count.sqrt();
        let needed = (LEVEL_QUANTILE + POWER_QUANTILE) * deviation / TO_TELL.ln();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of rounds, which saturates"
        )]
        let needed = needed.powi(2).ceil().max(LEAST_ROUNDS as f64) as u64;
        Some(Self {
            ratio: mean.exp(),
            low: (mean - around).exp(),
            high: (mean + around).exp(),
            rounds: logs.len(),
            p: by_signs(&logs, seed),
            rounds_needed: (logs.len() >= LEAST_ROUNDS).then_some(needed),
            verdict: Verdict::TooFew,
        })
    }

    fn judge(&mut self) {
        self.verdict = match self {
            _ if self.rounds < LEAST_ROUNDS => Verdict::TooFew,
            _ if self.p >= LEVEL || (self.ratio - 1.0).abs() < LEAST_DIFFERENCE => {
                Verdict::NoDifference
            }
            _ if self.high < 1.0 => Verdict::Lower,
            _ if self.low > 1.0 => Verdict::Higher,
            _ => Verdict::NoDifference,
        };
    }
}

/// Corrects the chances of all comparisons of an experiment for their number (Holm's method), and says what
/// each of them says. With it, one experiment in twenty at most finds any difference where there is none.
pub fn correct(contrasts: &mut [&mut Contrast]) {
    contrasts.sort_by(|one, other| one.p.total_cmp(&other.p));
    let (mut least, count) = (0.0_f64, contrasts.len());
    for (at, contrast) in contrasts.iter_mut().enumerate() {
        least = least.max(contrast.p * (count - at) as f64).min(1.0);
        contrast.p = least;
        contrast.judge();
    }
}

/// How likely the mean is as far from 0 if each sign is drawn.
fn by_signs(values: &[f64], seed: u64) -> f64 {
    // What is equal but for rounding counts.
    let reached = values.iter().sum::<f64>().abs() - 1e-9;
    let with = |negative: &mut dyn FnMut(usize) -> bool| {
        let signed = values.iter().enumerate();
        signed.map(|(at, value)| if negative(at) { -value } else { *value }).sum::<f64>().abs()
    };
    if values.len() <= ALL {
        let all = 1_u32 << values.len();
        let as_far = (0..all).filter(|signs| with(&mut |at| signs >> at & 1 == 1) >= reached);
        return as_far.count() as f64 / f64::from(all);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let as_far = (0..DRAWN).filter(|_| with(&mut |_| random.random_bool(0.5)) >= reached).count();
    // What was seen is one of them.
    (as_far + 1) as f64 / f64::from(DRAWN + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(pairs: &[(f64, f64)]) -> Contrast {
        let mut contrast = Contrast::of(pairs, 1).unwrap();
        correct(&mut [&mut contrast]);
        contrast
    }

    #[test]
    fn rounds_that_all_say_the_same_tell_a_difference() {
        let bases = [10.0, 90.0, 30.0, 50.0, 20.0, 70.0];
        let pairs: Vec<_> = bases.iter().map(|base| (base * 0.5, *base)).collect();
        let contrast = judged(&pairs);
        assert!((contrast.ratio - 0.5).abs() < 1e-9, "{contrast:?}");
        assert!((contrast.p - 2.0 / 64.0).abs() < 1e-9, "{contrast:?}");
        assert_eq!(contrast.verdict, Verdict::Lower);
        let turned: Vec<_> = pairs.iter().map(|(ours, base)| (*base, *ours)).collect();
        assert_eq!(judged(&turned).verdict, Verdict::Higher);
    }

    #[test]
    fn rounds_that_say_one_thing_and_the_other_tell_none() {
        let pairs = [(2.0, 1.0), (1.0, 2.0), (3.0, 1.0), (1.0, 3.0), (1.5, 1.0), (1.0, 1.5)];
        let contrast = judged(&pairs);
        assert_eq!(contrast.verdict, Verdict::NoDifference);
        assert!(contrast.low < 1.0 && contrast.high > 1.0);
        assert!(contrast.rounds_needed.unwrap() > 100, "{contrast:?}");
    }

    #[test]
    fn fewer_than_six_rounds_say_nothing() {
        assert_eq!(judged(&[(1.0, 9.0); 5]).verdict, Verdict::TooFew);
        assert_eq!(Contrast::of(&[(1.0, 9.0)], 1), None);
    }

    #[test]
    fn a_difference_that_is_sure_and_tiny_is_none() {
        assert_eq!(judged(&[(1.001, 1.0); 9]).verdict, Verdict::NoDifference);
    }

    #[test]
    fn the_more_is_compared_the_surer_each_must_be() {
        let of = |p| Contrast { p, ..Contrast::of(&[(1.0, 2.0); 8], 1).unwrap() };
        let (mut one, mut two, mut three) = (of(0.01), of(0.04), of(0.03));
        correct(&mut [&mut one, &mut two, &mut three]);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        close(one.p, 0.03);
        close(three.p, 0.06);
        close(two.p, 0.06);
        assert_eq!([one.verdict, two.verdict], [Verdict::Lower, Verdict::NoDifference]);
    }

    #[test]
    fn signs_that_are_drawn_tell_what_all_of_them_do() {
        let few: Vec<f64> = (0_u32..13).map(|at| f64::from(at % 5) - 1.0).collect();
        let exact = by_signs(&few, 1);
        let mut more = few;
        more.push(0.0);
        assert!((by_signs(&more, 1) - exact).abs() < 0.02, "{exact}");
    }
}
