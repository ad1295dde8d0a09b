//! The policies: a row each. A new one is a row here and a program in `balancer-ebpf`.

use balancer_ebpf::load::Source;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::tuning::Load;

/// How the slot of a new connection is chosen. The number is what the group's record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum Policy {
    /// No program: the kernel's own hash of addresses and ports, weights unknown
    Kernel = 0,
    /// The same hash, but by weight, and never to a drained worker
    Hash = 1,
    /// One worker after another, weights ignored
    RoundRobin = 2,
    /// One after another in proportion to the weights, evenly interleaved
    Weighted = 3,
    /// At random, by weight
    Random = 4,
    /// The lowest number of open connections by weight
    LeastConnections = 7,
    /// The lower one, by weight, of two that are drawn at random
    TwoChoices = 8,
    /// The fewest that wait to be accepted (UDP: to be read) by weight
    ShortestQueue = 9,
    /// The same worker for all connections of a client, by its address; few move when workers change
    Sticky = 10,
    /// The worker pinned to the CPU that received the connection, see `run --pin`
    Cpu = 11,
    /// Reference for measurements: a program that chooses nothing
    #[value(hide = true)]
    Noop = 5,
    /// Reference for measurements: a program that always chooses slot 0
    #[value(hide = true)]
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
    /// The policy's name, as on the command line and in `status --json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Hash => "hash",
            Self::RoundRobin => "round-robin",
            Self::Weighted => "weighted",
            Self::Random => "random",
            Self::LeastConnections => "least-connections",
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
            Self::LeastConnections | Self::ShortestQueue => Some("bal_least"),
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
            | Self::ShortestQueue
            | Self::Noop
            | Self::Fixed => Shares::Equal,
        }
    }

    /// What it compares, where `load` is what counts as load.
    pub fn source(self, load: Load) -> Source {
        match (self, load) {
            (Self::ShortestQueue, _) => Source::Queue,
            (Self::LeastConnections | Self::TwoChoices, Load::Connections) => Source::Connections,
            (Self::LeastConnections | Self::TwoChoices, Load::Reported) => Source::Reported,
            _ => Source::None,
        }
    }

    /// Reads the number of a group's record; `None` for one that this build does not know.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::value_variants().iter().copied().find(|policy| *policy as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_one_name_everywhere() {
        for policy in Policy::value_variants() {
            let json = serde_json::to_value(policy).unwrap();
            let cli = policy.to_possible_value().unwrap();
            assert_eq!(json, policy.name());
            assert_eq!(cli.get_name(), policy.name());
        }
    }

    #[test]
    fn a_policy_is_read_back_from_its_number() {
        for policy in Policy::value_variants() {
            assert_eq!(Policy::from_number(*policy as u32), Some(*policy));
        }
        assert_eq!(Policy::from_number(u32::MAX), None);
    }

    #[test]
    fn the_kernel_keeps_every_program_name_whole() {
        for policy in Policy::value_variants() {
            assert!(policy.program().is_none_or(|name| name.len() <= 15), "{policy:?}");
        }
    }
}
