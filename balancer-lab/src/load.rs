//! How connections, requests or CPU time were spread over the workers, and how they should have
//! been.

use super::{
    contender::Contender,
    evenness::{self, Evenness},
    scenario::Scenario,
};
use balancer_steering::policy::Shares;

/// How something was spread over the workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Each worker's part of it over all trials, 0 to 1.
    pub shares: Vec<f64>,
    /// How evenly in a trial, each figure the median of the trials'; of nothing, none. Over all
    /// trials together chance evens itself out, the more the more rounds there are.
    pub evenness: Option<Evenness>,
}

impl Load {
    /// Of a list of the workers' counts a trial.
    pub fn of(trials: &[Vec<u64>], expected: &[f64]) -> Self {
        let sums = sums(trials, expected);
        let whole = sums.iter().sum::<u64>().max(1) as f64;
        let of_trials: Vec<_> =
            trials.iter().filter_map(|counts| Evenness::of(counts, expected)).collect();
        Self {
            shares: sums.iter().map(|&count| count as f64 / whole).collect(),
            evenness: Evenness::median(&of_trials),
        }
    }
}

/// Whether the contender gives the workers of a scenario shares by their weights.
pub fn goes_by_weight(scenario: &Scenario, contender: Contender) -> bool {
    let weighted = scenario.weights.len() == scenario.workers;
    weighted
        && matches!(contender, Contender::Policy(spec) if spec.policy.shares() == Shares::ByWeight)
}

/// The share of each worker that a contender is to give it.
pub fn expected(scenario: &Scenario, contender: Contender) -> Vec<f64> {
    if goes_by_weight(scenario, contender) {
        evenness::by_weight(&scenario.weights)
    } else {
        evenness::equal(scenario.workers)
    }
}

/// Each worker's count over all trials.
pub fn sums(trials: &[Vec<u64>], expected: &[f64]) -> Vec<u64> {
    (0..expected.len()).map(|worker| trials.iter().map(|counts| counts[worker]).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::policy::Policy;

    use crate::read::tests::example;

    #[test]
    fn weights_are_what_a_policy_is_held_to_only_if_it_goes_by_them() {
        let report = example();
        let weighted = &report.scenarios[1].scenario;
        let shares = expected(weighted, Contender::plain(Policy::Hash));
        assert!((shares[0] - 1.0 / 13.0).abs() < 1e-12 && (shares[3] - 4.0 / 13.0).abs() < 1e-12);
        assert_eq!(expected(weighted, Contender::plain(Policy::RoundRobin)), [0.25; 4]);
        assert_eq!(expected(weighted, Contender::Shared), [0.25; 4]);
        assert_eq!(
            expected(&report.scenarios[0].scenario, Contender::plain(Policy::Hash)),
            [0.25; 4]
        );
    }

    #[test]
    fn evenness_is_that_of_a_trial_and_shares_are_of_all() {
        // Each trial is as uneven as can be, their sum is even.
        let load = Load::of(&[vec![4, 0], vec![0, 4]], &evenness::equal(2));
        assert_eq!(load.shares, [0.5, 0.5]);
        assert_eq!(load.evenness.unwrap().variation, 1.0);
    }

    #[test]
    fn of_no_trial_there_is_no_evenness() {
        let load = Load::of(&[], &evenness::equal(2));
        assert_eq!((load.shares, load.evenness), (vec![0.0, 0.0], None));
    }
}
