//! What a comparison measured: every trial, raw, in a form that is written as JSON and read back.
//! No figure here is derived from others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{contender::Contender, scenario::Scenario};
use crate::machine::Machine;

/// The version of this form. It rises when a field is renamed, removed or changes its meaning.
pub const SCHEMA: u32 = 1;

/// A comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The version of balancer that measured.
    pub balancer: String,
    /// Where and when.
    pub machine: Machine,
    /// What arrivals and service times were drawn from.
    pub seed: u64,
    /// Rounds that were asked for: trials of each contender in each scenario.
    pub rounds: usize,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// The contenders, in the order of reports.
    pub contenders: Vec<Contender>,
    /// The scenarios, as they were run, and their trials.
    pub scenarios: Vec<Compared>,
}

/// A scenario under all contenders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The scenario.
    pub scenario: Scenario,
    /// Contenders that were left out, since here they are the same as others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Contender>,
    /// Its trials, in the order in which they were run.
    pub trials: Vec<Trial>,
}

/// One load under one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Which of the rounds, from 0; in a round the same arrivals hit every contender. Of several
    /// trials of a contender in a round, at most the last one counts.
    pub round: usize,
    /// Who had to cope with it.
    pub contender: Contender,
    /// Why it does not count, if so: what failed, or that the generator could not keep its own
    /// schedule.
    pub invalid: Option<String>,
    /// What was measured, as far as it came.
    pub measured: Option<Measured>,
}

/// What one trial measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// From the first request's being due to the last answer, in seconds.
    pub seconds: f64,
    /// Requests that were due.
    pub scheduled: u64,
    /// From being due to being answered, in microseconds, of the answered requests.
    pub latency: Distribution,
    /// From being due to being sent off by the generator, in microseconds, of all requests.
    pub lateness: Distribution,
    /// Requests without an answer, by what became of them.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// What each worker had of it, by its number.
    pub workers: Vec<Share>,
}

/// How often each value was seen, values rising. Values are rounded up to three digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Distribution(pub Vec<(u64, u64)>);

/// What a worker had of a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Connections on which it answered.
    pub connections: u64,
    /// Requests that it answered.
    pub requests: u64,
    /// CPU time that it used, in microseconds.
    pub cpu: u64,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// Nobody listened.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection was closed without an answer.
    Closed,
    /// There was no answer in time.
    Timeout,
    /// The answer was none that a worker gives.
    Strange,
    /// Anything else.
    Other,
}
