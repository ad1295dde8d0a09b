//! Answers on connections that were open before a block: in none of its policy's figures, and reported.

use std::time::Duration;

use balancer_steering::requests::Histogram;

use super::{
    block::{Block, Part},
    plan::Plan,
    result::Outcome,
    words,
};

const ROUNDS: usize = 6;

/// So many answers that took so long.
fn answers(count: usize, millis: u64) -> Histogram {
    let mut histogram = Histogram::default();
    (0..count).for_each(|_| histogram.record(Duration::from_millis(millis)));
    histogram
}

/// Rounds of two policies, `kernel` and `new`: in each block so many answers, in milliseconds, on the
/// policy's own connections and on earlier ones.
fn experiment(own: [(usize, u64); 2], earlier: [(usize, u64); 2]) -> Outcome {
    let (block, burn_in) = (Duration::from_secs(8), Duration::from_secs(2));
    let plan = Plan { policies: 2, rounds: ROUNDS, block, burn_in, seed: 1 };
    let blocks = plan.turns().into_iter().map(|turn| {
        let ((count, millis), (carried, slow)) = (own[turn.policy], earlier[turn.policy]);
        let to_answer = answers(count, millis);
        let part = Part {
            slot: 0,
            pid: 1,
            connections: count as u64,
            in_flight: 1.0,
            to_read: to_answer.clone(),
            to_answer,
            carried_to_answer: answers(carried, slow),
        };
        Block {
            round: turn.round,
            policy: turn.policy,
            seconds: 6.0,
            carried_over: carried as u64,
            fallback: 0,
            errors: 0,
            overflows: Some(0),
            members: vec![part],
            generator: None,
        }
    });
    let names = ["kernel", "new"].map(str::to_owned);
    Outcome::of(&plan, &names, &blocks.collect::<Vec<_>>(), &|_| 1, None)
}

#[test]
fn answers_on_earlier_connections_are_in_no_figure_but_their_own() {
    let alone = experiment([(100, 20), (100, 10)], [(0, 0); 2]);
    let outcome = experiment([(100, 20), (100, 10)], [(300, 500), (100, 900)]);
    for (with, without) in outcome.policies.iter().zip(&alone.policies) {
        assert_eq!(with.answers, 600);
        assert_eq!(with.to_answer, without.to_answer);
        assert_eq!(with.against, without.against);
    }
    let carried: Vec<u64> = outcome.policies.iter().map(|policy| policy.carried_answers).collect();
    assert_eq!(carried, [1800, 600]);
    let text = words::report(&outcome);
    assert!(text.contains("carry-over: kernel: 1800 more answers (75 % of all"), "{text}");
    assert!(text.contains("carry-over: new: 600 more answers (50 % of all"), "{text}");
    assert!(!words::report(&alone).contains("carry-over"), "{text}");
}

#[test]
fn without_an_answer_on_a_connection_of_its_own_nothing_can_be_told_of_a_policy() {
    let outcome = experiment([(100, 20), (0, 0)], [(0, 0), (100, 10)]);
    assert!(outcome.policies[1].against.iter().all(Option::is_none));
    let text = words::report(&outcome);
    assert!(text.contains("new: nothing can be told, because all 600 answers"), "{text}");
    assert!(!text.contains("no difference"), "{text}");
}

#[test]
fn nothing_can_be_told_of_any_policy_if_all_connections_outlast_the_blocks() {
    let outcome = experiment([(0, 0); 2], [(100, 10); 2]);
    let text = words::report(&outcome);
    for policy in ["kernel", "new"] {
        assert!(text.contains(&format!("{policy}: nothing can be told")), "{text}");
    }
    assert!(!text.contains("no difference") && outcome.rounds_needed.is_none(), "{text}");
}
