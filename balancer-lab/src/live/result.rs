//! An experiment in figures: each policy's, and each against the baseline. Pure.

use std::time::Duration;

use balancer_steering::requests::Histogram;
use serde::Serialize;

use super::{
    block::{Block, Part, sum},
    contrast::{Contrast, correct},
    plan::Plan,
    slow::{Slow, slow},
};
use crate::evenness::{Evenness, by_weight};

/// The version of the JSON form.
pub const SCHEMA: u32 = 2;

/// What is compared, and what it is called: quantiles of the time to answer.
pub const COMPARED: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// An experiment, analysed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Each policy in figures, in the order in which they were asked for; the first is the baseline.
    pub policies: Vec<Standing>,
    /// Workers that are slower than the others.
    pub slow: Vec<Slow>,
    /// Rounds of which all blocks were run.
    pub rounds: usize,
    /// How long a block was, burn-in included, in seconds: the median, since a load generator takes its time.
    pub block_seconds: f64,
    /// How much of that was discarded, in seconds.
    pub burn_in_seconds: f64,
    /// Rounds after which a difference of 5 % in p99 would be told in four of five experiments; `None` of too
    /// few.
    pub rounds_needed: Option<u64>,
    /// Why it ended early, if it did.
    pub ended: Option<String>,
}

/// How a policy did.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// Its name, with its options.
    pub policy: String,
    /// Its blocks.
    pub blocks: usize,
    /// Answers in them, on connections that it chose itself: so are all times and spreads of answers.
    pub answers: u64,
    /// Time to answer, over all blocks.
    pub to_answer: Quantiles,
    /// Time until read, over all blocks.
    pub to_read: Quantiles,
    /// How connections were spread, relative to the weights; a coefficient of variation, 0 is even.
    pub connections_cv: Option<f64>,
    /// How answers were spread.
    pub answers_cv: Option<f64>,
    /// How requests in flight were spread.
    pub in_flight_cv: Option<f64>,
    /// Connections refused because a queue was full, in the whole network namespace; `None` if not known.
    pub overflows: Option<u64>,
    /// Choices that fell back to the kernel's hash.
    pub fallback: u64,
    /// Answers in its blocks on connections that were established before, so that an earlier policy chose
    /// their member.
    pub carried_answers: u64,
    /// Time to answer of these.
    pub carried_to_answer: Quantiles,
    /// Connections that were open when its blocks began.
    pub open_before: u64,
    /// [`COMPARED`] against the baseline; `None` of the baseline itself, or of too few rounds.
    pub against: [Option<Contrast>; COMPARED.len()],
    /// Medians of what the load generator printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<GeneratorMedians>,
}

/// What a load generator printed, in seconds: medians of the trials.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GeneratorMedians {
    /// Its p50.
    pub p50: Option<f64>,
    /// Its p99.
    pub p99: Option<f64>,
}

/// Quantiles, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    #[serde(rename = "p99.9")]
    pub p999: Option<f64>,
}

impl From<&Histogram> for Quantiles {
    fn from(histogram: &Histogram) -> Self {
        let at = |share| histogram.quantile(share).as_ref().map(Duration::as_secs_f64);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999) }
    }
}

impl Outcome {
    /// Analyses blocks of these policies, whose members have these weights by slot.
    pub fn of(
        plan: &Plan,
        policies: &[String],
        blocks: &[Block],
        weights: &dyn Fn(u32) -> u16,
        ended: Option<String>,
    ) -> Self {
        let standing =
            |(at, name): (usize, &String)| standing(at, name, blocks, weights, plan.seed);
        let mut policies: Vec<Standing> = policies.iter().enumerate().map(standing).collect();
        let mut all: Vec<&mut Contrast> =
            policies.iter_mut().flat_map(|policy| policy.against.iter_mut().flatten()).collect();
        correct(&mut all);
        let needed = policies.iter().map(|policy| policy.against[1].as_ref()?.rounds_needed);
        Self {
            schema: SCHEMA,
            slow: slow(blocks),
            rounds: policies.iter().map(|policy| policy.blocks).min().unwrap_or_default(),
            block_seconds: block_seconds(plan, blocks),
            burn_in_seconds: plan.burn_in.as_secs_f64(),
            rounds_needed: needed.flatten().max(),
            policies,
            ended,
        }
    }
}

fn block_seconds(plan: &Plan, blocks: &[Block]) -> f64 {
    let mut measured: Vec<f64> = blocks.iter().map(|block| block.seconds).collect();
    match measured.is_empty() {
        true => plan.block.as_secs_f64(),
        false => crate::ratio::median(&mut measured) + plan.burn_in.as_secs_f64(),
    }
}

fn standing(
    at: usize,
    name: &str,
    blocks: &[Block],
    weights: &dyn Fn(u32) -> u16,
    seed: u64,
) -> Standing {
    let ours: Vec<&Block> = blocks.iter().filter(|block| block.policy == at).collect();
    let (to_answer, to_read) =
        (ours.iter().map(|b| b.to_answer()), ours.iter().map(|b| b.to_read()));
    let (to_answer, to_read) = (to_answer.collect::<Vec<_>>(), to_read.collect::<Vec<_>>());
    let answers: u64 = to_answer.iter().map(Histogram::count).sum();
    let carried =
        sum(ours.iter().map(|block| block.carried_to_answer()).collect::<Vec<_>>().iter());
    let spread = |what: fn(&Part) -> f64| {
        let each: Vec<f64> = ours.iter().filter_map(|b| variation(b, weights, what)).collect();
        (!each.is_empty()).then(|| crate::ratio::median(&mut each.clone()))
    };
    let overflows: Vec<u64> = ours.iter().filter_map(|block| block.overflows).collect();
    Standing {
        policy: name.to_owned(),
        blocks: ours.len(),
        answers,
        to_answer: (&sum(to_answer.iter())).into(),
        to_read: (&sum(to_read.iter())).into(),
        connections_cv: spread(|part| part.connections as f64),
        answers_cv: spread(|part| part.to_answer.count() as f64),
        in_flight_cv: spread(|part| part.in_flight),
        overflows: (overflows.len() == ours.len()).then(|| overflows.iter().sum()),
        fallback: ours.iter().map(|block| block.fallback).sum(),
        carried_answers: carried.count(),
        carried_to_answer: (&carried).into(),
        open_before: ours.iter().map(|block| block.carried_over).sum(),
        against: COMPARED
            .map(|(_, share)| if at == 0 { None } else { contrast(at, share, blocks, seed) }),
        generator: generator(&ours),
    }
}

/// A quantile of a policy's blocks against that of the baseline's, by rounds.
fn contrast(at: usize, share: f64, blocks: &[Block], seed: u64) -> Option<Contrast> {
    let figure = |policy: usize, round: usize| {
        let block = blocks.iter().find(|b| b.policy == policy && b.round == round)?;
        Some(block.to_answer().quantile(share)?.as_secs_f64())
    };
    let rounds = blocks.iter().filter(|block| block.policy == at).map(|block| block.round);
    let pairs = rounds.filter_map(|round| figure(at, round).zip(figure(0, round)));
    Contrast::of(&pairs.collect::<Vec<_>>(), seed)
}

fn variation(block: &Block, weights: &dyn Fn(u32) -> u16, what: fn(&Part) -> f64) -> Option<f64> {
    let shares: Vec<u16> = block.members.iter().map(|part| weights(part.slot).max(1)).collect();
    // Averages have a fraction, and are counted in thousandths.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count, not below 0"
    )]
    let counts: Vec<u64> =
        block.members.iter().map(|part| (what(part) * 1000.0).round() as u64).collect();
    Some(Evenness::of(&counts, &by_weight(&shares))?.variation)
}

fn generator(blocks: &[&Block]) -> Option<GeneratorMedians> {
    let told = || blocks.iter().filter_map(|block| block.generator);
    told().next()?;
    let median =
        |values: Vec<f64>| (!values.is_empty()).then(|| crate::ratio::median(&mut values.clone()));
    Some(GeneratorMedians {
        p50: median(told().filter_map(|told| told.p50).collect()),
        p99: median(told().filter_map(|told| told.p99).collect()),
    })
}
