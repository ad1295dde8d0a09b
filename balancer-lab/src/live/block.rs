//! What one block measured: of each member what the kernel saw of it after the burn-in. Raw; no figure here
//! is derived from others.

use balancer_steering::requests::Histogram;
use serde::{Serialize, Serializer};

use crate::generators::Told;

/// A block of an experiment.
#[derive(Clone, Debug, Serialize)]
pub struct Block {
    /// Its round, from 0.
    pub round: usize,
    /// The policy, as an index into the policies of the experiment.
    pub policy: usize,
    /// How long was measured, burn-in excluded.
    pub seconds: f64,
    /// Connections that were open when the policy had been put in force, so that an earlier one chose their
    /// member.
    pub carried_over: u64,
    /// Choices that fell back to the kernel's hash.
    pub fallback: u64,
    /// Choices that failed by a defect.
    pub errors: u64,
    /// Connections that the kernel refused because a queue was full, in the whole network namespace;
    /// `None` if the kernel does not say.
    pub overflows: Option<u64>,
    /// Its members.
    pub members: Vec<Part>,
    /// What the load generator printed of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<Told>,
}

/// What a member had of a block.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Its place in the socket array.
    pub slot: u32,
    /// The worker.
    pub pid: u32,
    /// Connections that were established with it.
    pub connections: u64,
    /// Requests that waited for an answer, on average over the block.
    pub in_flight: f64,
    /// From the arrival of a request to its answer, on connections that the block's policy chose.
    #[serde(serialize_with = "buckets")]
    pub to_answer: Histogram,
    /// From the arrival of data until the worker read it, on the same.
    #[serde(serialize_with = "buckets")]
    pub to_read: Histogram,
    /// As `to_answer`, on connections that were established before.
    #[serde(serialize_with = "buckets")]
    pub carried_to_answer: Histogram,
}

impl Block {
    /// Times to answer of all members, on connections that the block's policy chose.
    pub fn to_answer(&self) -> Histogram {
        sum(self.members.iter().map(|part| &part.to_answer))
    }

    /// Times until read of all members, on the same.
    pub fn to_read(&self) -> Histogram {
        sum(self.members.iter().map(|part| &part.to_read))
    }

    /// Times to answer of all members, on connections that were established before.
    pub fn carried_to_answer(&self) -> Histogram {
        sum(self.members.iter().map(|part| &part.carried_to_answer))
    }

    /// Times to answer of all members, whichever policy chose the connection: what clients see.
    pub fn seen_to_answer(&self) -> Histogram {
        sum([&self.to_answer(), &self.carried_to_answer()].into_iter())
    }
}

impl Part {
    /// Times to answer, whichever policy chose the connection: what clients see of the worker.
    pub fn seen_to_answer(&self) -> Histogram {
        sum([&self.to_answer, &self.carried_to_answer].into_iter())
    }
}

/// All of them as one.
pub fn sum<'a>(all: impl Iterator<Item = &'a Histogram>) -> Histogram {
    all.fold(Histogram::default(), |mut sum, more| {
        sum += more;
        sum
    })
}

/// As pairs of a time in nanoseconds and how often it was seen.
fn buckets<S: Serializer>(histogram: &Histogram, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        histogram
            .buckets()
            .map(|(time, count)| (u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), count)),
    )
}
