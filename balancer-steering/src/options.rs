//! What a group's steering is told besides its policy, and what it takes of the kernel. Pure, but for
//! what asks for the rights of this process.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use balancer_common::{load::Source, stall};
use rustix::thread::CapabilitySet;

use crate::{
    kernel, metric::Metric, policy::Policy, privilege, protocol::Protocol, time_span::TimeSpan,
};

/// How long a queue may stand still unless something else is said.
pub const STALL: Duration = Duration::from_millis(200);

/// What a group's steering is told besides its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyOptions {
    /// What counts as load.
    pub load: Metric,
    /// Leave out workers that have not taken any of those who wait for that long; `None` for ever.
    pub avoid_stalled: Option<Duration>,
    /// How long the weight of a new member grows from a tenth to its own.
    pub slow_start: Option<Duration>,
    /// The largest share of new connections that one member gets, for the policies that compare loads.
    pub max_share: Option<Share>,
    /// Track requests even while nobody looks at them.
    pub observe: bool,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self {
            load: Metric::default(),
            avoid_stalled: Some(STALL),
            slow_start: None,
            max_share: None,
            observe: false,
        }
    }
}

/// A share of new connections, in whole percent from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u8);

impl Share {
    /// Of a record; 0, or what is no share, is none.
    pub(crate) fn from_record(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    /// In percent.
    pub fn percent(self) -> u8 {
        self.0
    }
}

/// Why a text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a share; write 1% to 100%, such as 50%")]
pub struct ShareError(String);

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent.and_then(Self::from_record).ok_or_else(|| ShareError(text.to_owned()))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// How long a queue may stand still, as a user writes it: a time, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallThreshold(pub Option<Duration>);

/// Why a text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a time after which a worker counts as stalled; write 1ms to 1h, such as 50ms, or `off`"
)]
pub struct StallThresholdError(String);

impl FromStr for StallThreshold {
    type Err = StallThresholdError;

    fn from_str(text: &str) -> Result<Self, StallThresholdError> {
        const LONGEST: Duration = Duration::from_secs(3600);
        match text.parse::<TimeSpan>() {
            _ if text == "off" => Ok(Self(None)),
            Ok(TimeSpan(time)) if time <= LONGEST => Ok(Self(Some(time))),
            _ => Err(StallThresholdError(text.to_owned())),
        }
    }
}

impl fmt::Display for StallThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => write!(f, "{}", TimeSpan(time)),
            None => f.write_str("off"),
        }
    }
}

/// Whether the kernel's sockets can be looked into: this process may, and the kernel describes its types.
///
/// # Errors
/// Says what lacks.
pub fn can_look() -> Result<(), Blind> {
    if !privilege::has(CapabilitySet::PERFMON) {
        return Err(Blind::Capability);
    }
    if !Path::new(BTF).exists() {
        return Err(Blind::Btf);
    }
    Ok(())
}

/// Whether requests can be tracked: the kernel has the tracepoints, and this process may use them.
///
/// # Errors
/// Says what lacks.
pub fn can_track() -> Result<(), Untracked> {
    let release = kernel::release();
    if kernel::Release::parse(&release).is_none_or(|release| release < kernel::REQUESTS) {
        return Err(Untracked::Kernel(release));
    }
    can_look().map_err(Untracked::Blind)
}

/// Why requests cannot be tracked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untracked {
    /// The kernel has no such tracepoints.
    #[error("that needs Linux {requests}, and this is {0}", requests = kernel::REQUESTS)]
    Kernel(String),
    /// It may not be looked into the kernel.
    #[error("that needs {0}")]
    Blind(Blind),
}

/// Why the kernel's sockets cannot be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blind {
    /// Lacking the right.
    #[error("CAP_PERFMON, to look into the kernel's own sockets; run this as root")]
    Capability,
    /// Lacking BTF.
    #[error(
        "a kernel with BTF, to look into its sockets (CONFIG_DEBUG_INFO_BTF; {BTF} is missing)"
    )]
    Btf,
}

/// How long a queue may stand still, in the programs' ticks; 0 for ever.
pub fn stall_ticks(options: PolicyOptions) -> u32 {
    options.avoid_stalled.map_or(0, |time| {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        stall::ticks(nanoseconds).max(1)
    })
}

/// Why a policy or option cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// The kernel's sockets cannot be looked into.
    #[error("{0} needs {1}, or choose a policy that does without, such as round-robin")]
    Blind(String, Blind),
    /// Lacking the right, on a kernel where whatever steers needs it.
    #[error(
        "on Linux {0} steering needs CAP_PERFMON (from {barriers} on only the policy shortest-queue \
         does); run this as root",
        barriers = kernel::BARRIERS
    )]
    Speculation(String),
    /// There are none.
    #[error(
        "{0} compares connections, and UDP without flows has none; let it be steered by flows, or choose \
         shortest-queue"
    )]
    Connectionless(String),
    /// They are not told apart.
    #[error(
        "{0} compares requests, which are not told apart in UDP; choose least-connections or \
         shortest-queue"
    )]
    Requestless(String),
    /// Requests cannot be tracked.
    #[error("{0} tracks requests; {1}; choose another policy, such as least-connections")]
    Untracked(String, Untracked),
    /// They are not counted.
    #[error(
        "{0} compares open connections, which are not counted in this group; choose another policy, or \
         start the group again with counting"
    )]
    Uncounted(String),
}

/// Where the kernel describes its own types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Checks that a policy with these options can be had for a protocol, on this machine. `counted` is
/// whether connections are counted; for UDP, whether there are flows.
///
/// # Errors
/// Says what is missing.
pub fn check(
    policy: Policy,
    options: PolicyOptions,
    protocol: Protocol,
    counted: bool,
) -> Result<(), Unmet> {
    let named = || format!("the policy {}", policy.name());
    let source = policy.source(options.load);
    let of_connections = [Source::Connections, Source::Requests].contains(&source);
    if protocol == Protocol::Udp {
        if source == Source::Requests {
            return Err(Unmet::Requestless(named()));
        }
        if of_connections && !counted {
            return Err(Unmet::Connectionless(named()));
        }
    }
    let release = kernel::release();
    if policy.steers() && kernel::wants_perfmon(&release) && !privilege::has(CapabilitySet::PERFMON)
    {
        return Err(Unmet::Speculation(release));
    }
    if of_connections && !counted {
        return Err(Unmet::Uncounted(named()));
    }
    if (source == Source::Requests || options.observe)
        && let Err(lacks) = can_track()
    {
        let what = if options.observe { "the option observe".to_owned() } else { named() };
        return Err(Unmet::Untracked(what, lacks));
    }
    match can_look() {
        Err(blind) if source == Source::Queue => Err(Unmet::Blind(named(), blind)),
        Err(blind) if policy.steers() && is_asked_to_avoid(options) => {
            Err(Unmet::Blind("the option avoid-stalled".to_owned(), blind))
        }
        _ => Ok(()),
    }
}

/// Whether a user has said how long a worker may stand still.
fn is_asked_to_avoid(options: PolicyOptions) -> bool {
    options.avoid_stalled.is_some_and(|time| time != STALL)
}

/// What cannot be done for a group with what this process may, and is done without; `None` where nothing
/// is missing.
pub fn shortcoming(policy: Policy) -> Option<String> {
    let blind = can_look().err().filter(|_| policy.steers())?;
    Some(format!(
        "neither full queues nor stalled workers are left out: that needs {blind}; the rest works"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tolerance_is_a_time_or_off() {
        assert_eq!("50ms".parse(), Ok(StallThreshold(Some(Duration::from_millis(50)))));
        assert_eq!("off".parse(), Ok(StallThreshold(None)));
        for text in ["", "0ms", "2h", "never"] {
            let message = text.parse::<StallThreshold>().unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{text}`")) && message.contains("50ms"),
                "{message}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<StallThreshold>();
        }

        #[test]
        fn a_tolerance_is_read_back_as_it_is_shown(millis in 1..=3_600_000u64) {
            let tolerance = StallThreshold(Some(Duration::from_millis(millis)));
            prop_assert_eq!(tolerance.to_string().parse(), Ok(tolerance));
        }
    }

    #[test]
    fn a_tolerance_below_a_tick_is_one() {
        let options = PolicyOptions {
            avoid_stalled: Some(Duration::from_nanos(1)),
            ..PolicyOptions::default()
        };
        assert_eq!(stall_ticks(options), 1);
        assert_eq!(stall_ticks(PolicyOptions { avoid_stalled: None, ..options }), 0);
    }

    #[test]
    fn a_policy_by_connections_needs_them_counted_and_no_other_does() {
        let check = |policy, load, counted| {
            check(
                policy,
                PolicyOptions { load, ..PolicyOptions::default() },
                Protocol::Tcp,
                counted,
            )
        };
        for policy in [Policy::LeastConnections, Policy::TwoChoices] {
            let refusal = check(policy, Metric::Connections, false).unwrap_err();
            assert_eq!(refusal, Unmet::Uncounted(format!("the policy {}", policy.name())));
            assert_ne!(check(policy, Metric::Reported, false), Err(refusal));
        }
        assert!(check(Policy::Kernel, Metric::Connections, false).is_ok());
    }

    #[test]
    fn udp_has_flows_to_go_by_or_nothing_and_no_requests() {
        let check = |policy, flows| check(policy, PolicyOptions::default(), Protocol::Udp, flows);
        assert!(check(Policy::LeastConnections, true).is_ok());
        for (policy, flows, says) in [
            (Policy::LeastConnections, false, "steered by flows"),
            (Policy::LeastRequests, true, "shortest-queue"),
        ] {
            let message = check(policy, flows).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
