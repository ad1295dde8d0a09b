//! The analysis on experiments whose answer is known: how often it is right.

use std::time::Duration;

use balancer_steering::requests::Histogram;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, Normal};

use super::{
    block::{Block, Part},
    contrast::Verdict,
    plan::Plan,
    result::Outcome,
};

/// Answers of a member in a block.
const ANSWERS: usize = 60;

/// What an experiment is made of: median time of each policy and factor of each worker; an hour that comes
/// and goes changes all blocks of a round alike, and some chance each block.
struct Truth {
    policies: Vec<f64>,
    workers: Vec<f64>,
    rounds: usize,
}

impl Truth {
    fn experiment(&self, seed: u64) -> Outcome {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (block, burn_in) = (Duration::from_secs(8), Duration::from_secs(2));
        let plan =
            Plan { policies: self.policies.len(), rounds: self.rounds, block, burn_in, seed };
        let hours: Vec<f64> = {
            let noise = Normal::new(0.0, 0.5).unwrap();
            (0..self.rounds).map(|_| f64::exp(noise.sample(&mut random))).collect()
        };
        let chance = Normal::new(0.0, 0.15).unwrap();
        let mut run = |turn: super::plan::Turn| {
            let of_block = f64::exp(chance.sample(&mut random));
            let scale = 0.01 * hours[turn.round] * self.policies[turn.policy] * of_block;
            let members = self.workers.iter().zip(0..).map(|(factor, slot)| {
                let mut to_answer = Histogram::default();
                for _ in 0..ANSWERS {
                    let service: f64 = Exp1.sample(&mut random);
                    to_answer.record(Duration::from_secs_f64(service * scale * factor));
                }
                Part {
                    slot,
                    pid: 100 + slot,
                    connections: ANSWERS as u64,
                    in_flight: 1.0,
                    to_read: to_answer.clone(),
                    to_answer,
                    carried_to_answer: Histogram::default(),
                }
            });
            Block {
                round: turn.round,
                policy: turn.policy,
                seconds: 6.0,
                carried_over: 0,
                fallback: 0,
                errors: 0,
                overflows: Some(0),
                members: members.collect(),
                generator: None,
            }
        };
        let blocks: Vec<Block> = plan.turns().into_iter().map(&mut run).collect();
        let names: Vec<String> = (0..self.policies.len()).map(|at| format!("p{at}")).collect();
        Outcome::of(&plan, &names, &blocks, &|_| 1, None)
    }

    /// In how many of so many experiments something holds.
    fn holds(&self, experiments: u64, what: impl Fn(&Outcome) -> bool) -> u64 {
        (0..experiments).filter(|&seed| what(&self.experiment(seed))).count() as u64
    }
}

fn verdicts(outcome: &Outcome) -> impl Iterator<Item = Verdict> + '_ {
    outcome.policies.iter().flat_map(|policy| policy.against.iter().flatten()).map(|c| c.verdict)
}

#[test]
fn equal_policies_differ_in_nothing_in_nineteen_of_twenty_experiments() {
    let truth = Truth { policies: vec![1.0; 4], workers: vec![1.0; 3], rounds: 8 };
    let experiments = 1000;
    let right =
        truth.holds(experiments, |o| verdicts(o).all(|verdict| verdict == Verdict::NoDifference));
    assert!(right * 20 >= experiments * 19, "{right} of {experiments}");
}

#[test]
fn equal_workers_are_not_called_slow_in_nineteen_of_twenty_experiments() {
    let truth = Truth { policies: vec![1.0; 2], workers: vec![1.0; 3], rounds: 8 };
    let right = truth.holds(500, |outcome| outcome.slow.is_empty());
    assert!(right * 20 >= 500 * 19, "{right} of 500");
}

#[test]
fn twelve_rounds_find_a_policy_that_halves_the_time_in_nine_of_ten_experiments() {
    let truth = Truth { policies: vec![1.0, 1.0, 0.5, 0.5], workers: vec![1.0; 3], rounds: 12 };
    let right = truth.holds(200, |outcome| {
        let p99 = |at: usize| outcome.policies[at].against[1].as_ref().map(|c| c.verdict);
        let lower = Some(Verdict::Lower);
        p99(2) == lower && p99(3) == lower && p99(1) != lower
    });
    assert!(right >= 180, "{right} of 200");
}

#[test]
fn a_worker_that_is_four_times_slower_is_named_first_in_nine_of_ten_experiments() {
    let truth = Truth { policies: vec![1.0; 2], workers: vec![1.0, 4.0, 1.0], rounds: 6 };
    let right = truth.holds(200, |o| o.slow.len() == 1 && o.slow[0].pid == 101);
    assert!(right >= 180, "{right} of 200");
}

#[test]
fn what_it_would_take_to_tell_five_percent_grows_with_the_noise_and_is_said() {
    let truth = Truth { policies: vec![1.0; 2], workers: vec![1.0; 3], rounds: 8 };
    let outcome = truth.experiment(1);
    let rounds = outcome.rounds_needed.unwrap();
    assert!(rounds > 20, "{rounds}");
    let text = super::words::report(&outcome);
    assert!(
        text.contains(&format!("to tell a difference of 5 % in p99: {rounds} rounds")),
        "{text}"
    );
}
