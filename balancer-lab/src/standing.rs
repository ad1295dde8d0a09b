//! How a contender did in a scenario, in figures.

use std::collections::BTreeMap;

use super::{
    contender::Contender,
    load::Load,
    ratio::Ratio,
    report::{Distribution, ErrorKind},
};

/// The quantiles of latency that are shown, and what they are called.
pub const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// How a contender did.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// Who.
    pub contender: Contender,
    /// How many trials count.
    pub valid: usize,
    /// The rounds, from 0, whose trials do not count, and why.
    pub invalid: Vec<(usize, &'a str)>,
    /// Requests that were due in trials that count.
    pub scheduled: u64,
    /// Latency in all trials that count, in microseconds.
    pub latency: Distribution,
    /// [`QUANTILES`] of the latency of a trial, in microseconds.
    pub quantiles: [Option<Spread>; QUANTILES.len()],
    /// Answers a second.
    pub throughput: Option<Spread>,
    /// Requests without an answer.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// How connections were spread.
    pub connections: Load,
    /// How requests were spread.
    pub requests: Load,
    /// How CPU time was spread, in microseconds.
    pub cpu: Load,
    /// How likely chance alone spreads connections as unevenly, where that can be asked.
    pub chance: Option<f64>,
    /// Beside the kernel's hash; of that itself, nothing.
    pub against: Against,
    /// All this in a sentence.
    pub verdict: String,
}

/// A figure over the trials.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle trial's.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// Medians over the kernel's, as far as there are rounds in which both trials count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Against {
    /// The median latency.
    pub p50: Option<Ratio>,
    /// What a hundredth of the latencies is above.
    pub p99: Option<Ratio>,
    /// Answers a second.
    pub throughput: Option<Ratio>,
}
