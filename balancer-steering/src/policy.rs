//! The policies: a row each. A new one is a row here and a program in `balancer-ebpf`.

use std::str::FromStr;

use balancer_common::load::Source;
use serde::{Deserialize, Serialize};

use crate::metric::Metric;

/// How the slot of a new connection is chosen. The number is what the group's record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum Policy {
    /// No program: the kernel's own hash of addresses and ports, without weights
    Kernel = 0,
    /// The same hash, but by weight, and never to a drained worker
    Hash = 1,
    /// One worker after another, weights ignored
    RoundRobin = 2,
    /// One after another in proportion to the weights, evenly interleaved
    Weighted = 3,
    /// At random, by weight
    Random = 4,
    /// The fewest open connections, by weight
    LeastConnections = 7,
    /// The one with fewer connections, by weight, of two that are drawn at random
    TwoChoices = 8,
    /// The fewest connections that wait to be accepted (UDP: bytes to be read), by weight
    ShortestQueue = 9,
    /// The same worker for all connections of a client, by its address; few move when workers change
    Sticky = 10,
    /// The worker pinned to the CPU that received the connection; see `run --pin`
    Cpu = 11,
    /// The fewest requests that wait for an answer, by weight (Linux 6.3)
    LeastRequests = 12,
    /// Reference for measurements: a program that chooses nothing
    Noop = 5,
    /// Reference for measurements: a program that always chooses slot 0
    Fixed = 6,
}

/// How the members stand in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    /// All alike.
    Equal,
    /// As often as its weight says.
    ByWeight,
    /// By weight too, but where it stood before, so that a client keeps its member.
    ByClient,
    /// In the positions of the CPU that it is pinned to.
    ByCpu,
}

impl Policy {
    /// All of them, references for measurements last.
    pub const ALL: [Self; 13] = [
        Self::Kernel,
        Self::Hash,
        Self::RoundRobin,
        Self::Weighted,
        Self::Random,
        Self::LeastConnections,
        Self::LeastRequests,
        Self::TwoChoices,
        Self::ShortestQueue,
        Self::Sticky,
        Self::Cpu,
        Self::Noop,
        Self::Fixed,
    ];

    /// Whether it is of use only as a reference for measurements.
    pub fn is_reference(self) -> bool {
        matches!(self, Self::Noop | Self::Fixed)
    }

    /// What it does, in a line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Kernel => {
                "No program: the kernel's own hash of addresses and ports, without weights"
            }
            Self::Hash => "The same hash, but by weight, and never to a drained worker",
            Self::RoundRobin => "One worker after another, weights ignored",
            Self::Weighted => "One after another in proportion to the weights, evenly interleaved",
            Self::Random => "At random, by weight",
            Self::LeastConnections => "The fewest open connections, by weight",
            Self::LeastRequests => {
                "The fewest requests that wait for an answer, by weight (Linux 6.3)"
            }
            Self::TwoChoices => {
                "The one with fewer connections, by weight, of two that are drawn at random"
            }
            Self::ShortestQueue => {
                "The fewest connections that wait to be accepted (UDP: bytes to be read), by weight"
            }
            Self::Sticky => {
                "The same worker for all connections of a client, by its address; few move when \
                 workers change"
            }
            Self::Cpu => "The worker pinned to the CPU that received the connection",
            Self::Noop => "Reference for measurements: a program that chooses nothing",
            Self::Fixed => "Reference for measurements: a program that always chooses slot 0",
        }
    }

    /// The policy's name, as on the command line and in `status --json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Hash => "hash",
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::Random => "random",
            Self::LeastConnections => "least-connections",
            Self::LeastRequests => "least-requests",
            Self::TwoChoices => "two-choices",
            Self::ShortestQueue => "shortest-queue",
            Self::Sticky => "sticky",
            Self::Cpu => "cpu",
            Self::Noop => "noop",
            Self::Fixed => "fixed",
        }
    }

    /// The program in the object; `None` for the plain kernel hash. At most 15 characters, which
    /// is what the kernel keeps of a name.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Kernel => None,
            Self::Hash => Some("bal_hash"),
            // The same turns, of another table.
            Self::RoundRobin | Self::Weighted => Some("bal_round_robin"),
            Self::Random => Some("bal_random"),
            Self::LeastConnections | Self::LeastRequests | Self::ShortestQueue => Some("bal_least"),
            Self::TwoChoices => Some("bal_two_choices"),
            Self::Sticky => Some("bal_sticky"),
            Self::Cpu => Some("bal_cpu"),
            Self::Noop => Some("bal_noop"),
            Self::Fixed => Some("bal_fixed"),
        }
    }

    /// Whether its choices are the table's, so that who is not in the table gets none.
    pub fn steers(self) -> bool {
        !matches!(self, Self::Kernel | Self::Noop | Self::Fixed)
    }

    /// How the table is built for it.
    pub fn shares(self) -> Shares {
        match self {
            Self::Hash | Self::Weighted | Self::Random | Self::TwoChoices => Shares::ByWeight,
            Self::Sticky => Shares::ByClient,
            Self::Cpu => Shares::ByCpu,
            Self::Kernel
            | Self::RoundRobin
            | Self::LeastConnections
            | Self::LeastRequests
            | Self::ShortestQueue
            | Self::Noop
            | Self::Fixed => Shares::Equal,
        }
    }

    /// Whether weights count: by how often a member stands in the table, or because loads are
    /// compared relative to them.
    pub fn weighs(self) -> bool {
        self.shares() != Shares::Equal || self.source(Metric::default()) != Source::None
    }

    /// What it compares, where `load` is what counts as load.
    pub fn source(self, load: Metric) -> Source {
        match (self, load) {
            (Self::ShortestQueue, _) => Source::Queue,
            (Self::LeastRequests, _)
            | (Self::LeastConnections | Self::TwoChoices, Metric::Requests) => Source::Requests,
            (Self::LeastConnections | Self::TwoChoices, Metric::Connections) => Source::Connections,
            (Self::LeastConnections | Self::TwoChoices, Metric::Reported) => Source::Reported,
            _ => Source::None,
        }
    }

    /// Reads the number of a group's record; `None` for one that this build does not know.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| *policy as u32 == number)
    }
}

/// A name that no policy has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy `{0}`")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let named = Self::ALL.into_iter().find(|policy| policy.name() == name);
        named.ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_one_name_everywhere() {
        for policy in Policy::ALL {
            let json = serde_json::to_value(policy).unwrap();
            assert_eq!(json, policy.name());
            assert_eq!(policy.name().parse(), Ok(policy));
        }
    }

    #[test]
    fn a_policy_is_read_back_from_its_number() {
        for policy in Policy::ALL {
            assert_eq!(Policy::from_number(policy as u32), Some(policy));
        }
        assert_eq!(Policy::from_number(u32::MAX), None);
    }

    #[test]
    fn weights_count_under_every_policy_but_those_that_treat_all_members_alike() {
        let ignore = [Policy::Kernel, Policy::RoundRobin, Policy::Noop, Policy::Fixed];
        for policy in Policy::ALL {
            assert_eq!(policy.weighs(), !ignore.contains(&policy), "{policy:?}");
        }
    }

    #[test]
    fn the_kernel_keeps_every_program_name_whole() {
        for policy in Policy::ALL {
            assert!(policy.program().is_none_or(|name| name.len() <= 15), "{policy:?}");
        }
    }
}
