//! What a group's steering is told besides its policy, and what it takes of the kernel. Pure, but for
//! [`check`] and [`Requirement::check`].

use std::{fmt, path::Path, str::FromStr, time::Duration};

use balancer_ebpf::{load::Source, record::Settings, stall};
use clap::ValueEnum;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::{group::Protocol, kernel, patience::Patience, policy::Policy, privilege};

/// What counts as a worker's load, for the policies that compare loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Its open connections, and those on their way
    #[default]
    Connections = 0,
    /// What it says itself, in the map REPORTED
    Reported = 1,
}

/// What a group's steering is told besides its policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// What counts as load.
    pub load: Load,
    /// Leave out workers that have not taken any of those who wait for that long; `None` for ever.
    pub avoid_stalled: Option<Duration>,
    /// How long the weight of a new member grows from a tenth to its own.
    pub slow_start: Option<Duration>,
}

/// How long a queue may stand still, as a user writes it: a time, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance(pub Option<Duration>);

/// Why a text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not how long a worker may stand still; write a time of 1ms to 1h, such as 50ms, or `off`"
)]
pub struct ToleranceError(String);

impl FromStr for Tolerance {
    type Err = ToleranceError;

    fn from_str(text: &str) -> Result<Self, ToleranceError> {
        const LONGEST: Duration = Duration::from_secs(3600);
        match text.parse::<Patience>() {
            _ if text == "off" => Ok(Self(None)),
            Ok(Patience(time)) if time <= LONGEST => Ok(Self(Some(time))),
            _ => Err(ToleranceError(text.to_owned())),
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => write!(f, "{}", Patience(time)),
            None => f.write_str("off"),
        }
    }
}

/// What the programs are told for a policy.
pub fn settings(policy: Policy, tuning: Tuning, protocol: Protocol, cpus: u32) -> Settings {
    let source = policy.source(tuning.load);
    Settings {
        stall_ticks: stall_ticks(tuning),
        source: source as u32,
        udp: u32::from(protocol == Protocol::Udp),
        tracked: u32::from(source == Source::Connections),
        cpus,
    }
}

/// How long a queue may stand still, in the programs' ticks; 0 for ever.
pub fn stall_ticks(tuning: Tuning) -> u32 {
    tuning.avoid_stalled.map_or(0, |time| {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        stall::ticks(nanoseconds).max(1)
    })
}

/// What a policy or option takes that not every machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The option, as on the command line.
    pub of: String,
    /// Whether the kernel must describe its types.
    pub btf: bool,
}

/// Why it cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Lacking the right.
    #[error(
        "{0} needs CAP_PERFMON, to look into the kernel's own sockets; run this as root, or choose \
         a policy that does without, such as round-robin"
    )]
    Capability(String),
    /// Lacking the right, on a kernel where whatever steers needs it.
    #[error(
        "Linux {0} takes programs that steer from those with CAP_PERFMON only (from {barriers} on, \
         load-aware policies alone need it); run this as root",
        barriers = kernel::BARRIERS
    )]
    Speculation(String),
    /// Lacking BTF.
    #[error(
        "{0} needs a kernel with BTF, to look into its sockets (CONFIG_DEBUG_INFO_BTF; {1} is \
         missing); choose a policy that does without, such as round-robin"
    )]
    Btf(String, &'static str),
    /// There are none.
    #[error(
        "{0} goes by connections, and UDP has none; choose shortest-queue, or --load reported with \
         workers that say their load"
    )]
    Connectionless(String),
}

/// Where the kernel describes its own types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

impl Requirement {
    /// What a policy with these options takes; `None` where every machine that can steer has it.
    pub fn of(policy: Policy, tuning: Tuning) -> Option<Self> {
        let source = policy.source(tuning.load);
        let avoids = policy.steers() && tuning.avoid_stalled.is_some();
        let of = match source {
            // To ask every member takes a loop that the verifier follows with that right only.
            Source::Connections | Source::Queue | Source::Reported => {
                format!("the policy {}", policy.name())
            }
            Source::None if avoids => "--avoid-stalled".to_owned(),
            Source::None => return None,
        };
        Some(Self { of, btf: avoids || source != Source::Reported })
    }

    /// Checks that this machine has it.
    ///
    /// # Errors
    /// Where it has not.
    pub fn check(self) -> Result<(), Unmet> {
        if !privilege::has(CapabilitySet::PERFMON) {
            return Err(Unmet::Capability(self.of));
        }
        if self.btf && !Path::new(BTF).exists() {
            return Err(Unmet::Btf(self.of, BTF));
        }
        Ok(())
    }
}

/// Checks that a policy with these options can be had for a protocol, on this machine.
///
/// # Errors
/// Says what is missing.
pub fn check(policy: Policy, tuning: Tuning, protocol: Protocol) -> Result<(), Unmet> {
    if protocol == Protocol::Udp && policy.source(tuning.load) == Source::Connections {
        return Err(Unmet::Connectionless(format!("the policy {}", policy.name())));
    }
    let release = kernel::release();
    if policy.steers() && kernel::wants_perfmon(&release) && !privilege::has(CapabilitySet::PERFMON)
    {
        return Err(Unmet::Speculation(release));
    }
    Requirement::of(policy, tuning).map_or(Ok(()), Requirement::check)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tolerance_is_a_time_or_off() {
        assert_eq!("50ms".parse(), Ok(Tolerance(Some(Duration::from_millis(50)))));
        assert_eq!("off".parse(), Ok(Tolerance(None)));
        for text in ["", "0ms", "2h", "never"] {
            let message = text.parse::<Tolerance>().unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{text}`")) && message.contains("50ms"),
                "{message}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<Tolerance>();
        }

        #[test]
        fn a_tolerance_is_read_back_as_it_is_shown(millis in 1..=3_600_000u64) {
            let tolerance = Tolerance(Some(Duration::from_millis(millis)));
            prop_assert_eq!(tolerance.to_string().parse(), Ok(tolerance));
        }
    }

    #[test]
    fn a_tolerance_below_a_tick_is_one() {
        let tuning = Tuning { avoid_stalled: Some(Duration::from_nanos(1)), ..Tuning::default() };
        let settings = settings(Policy::RoundRobin, tuning, Protocol::Tcp, 1);
        assert_eq!((settings.stall_ticks, settings.source, settings.tracked), (1, 0, 0));
    }

    #[test]
    fn only_what_looks_at_load_needs_more_than_steering() {
        let needs = |policy, tuning| Requirement::of(policy, tuning).map(|needed| needed.of);
        let avoiding =
            Tuning { avoid_stalled: Some(Duration::from_millis(50)), ..Tuning::default() };
        let reported = Tuning { load: Load::Reported, ..Tuning::default() };
        let plain = Tuning::default();
        let least = Some("the policy least-connections".to_owned());
        assert_eq!(needs(Policy::LeastConnections, plain), least);
        assert_eq!(needs(Policy::LeastConnections, reported), least);
        let needs_btf = |tuning| Requirement::of(Policy::LeastConnections, tuning).unwrap().btf;
        assert!(needs_btf(plain) && !needs_btf(reported));
        assert!(needs(Policy::ShortestQueue, reported).is_some());
        assert_eq!(needs(Policy::RoundRobin, plain), None);
        assert_eq!(needs(Policy::RoundRobin, avoiding), Some("--avoid-stalled".to_owned()));
        assert_eq!(needs(Policy::Kernel, avoiding), None);
    }

    #[test]
    fn udp_has_no_connections_to_go_by() {
        let message =
            check(Policy::LeastConnections, Tuning::default(), Protocol::Udp).unwrap_err();
        assert!(message.to_string().contains("shortest-queue"), "{message}");
    }
}
