//! What is compared: the policies, and one way of sharing a port that needs none.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::scenario::Scenario;
use balancer_steering::{policy::Policy, policy_spec::PolicySpec};

/// A way to get new connections to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Contender {
    /// A socket a worker, and this policy.
    Policy(PolicySpec),
    /// One listening socket that all workers wait on with `EPOLLEXCLUSIVE`: what most servers do
    /// without `SO_REUSEPORT`.
    Shared,
}

/// The plain kernel hash, which everything is compared with.
pub const KERNEL: Contender = Contender::plain(Policy::Kernel);

/// What is compared unless others are asked for. Not `hash` and `random`, which are as even as the
/// kernel's hash, nor `sticky` and `cpu`, which go by what all clients have in common here: one
/// address, and no CPU of their own.
pub const STANDARD: [Contender; 8] = [
    KERNEL,
    Contender::Shared,
    Contender::plain(Policy::RoundRobin),
    Contender::plain(Policy::LeastConnections),
    Contender::plain(Policy::TwoChoices),
    Contender::plain(Policy::ShortestQueue),
    AVOIDING,
    Contender::plain(Policy::Weighted),
];

/// Those that tell most.
pub const QUICK: [Contender; 5] = [
    KERNEL,
    Contender::Shared,
    Contender::plain(Policy::RoundRobin),
    Contender::plain(Policy::LeastConnections),
    Contender::plain(Policy::ShortestQueue),
];

/// In turn, but to nobody who lets others wait for as long as a user begins to notice.
const AVOIDING: Contender = Contender::Policy(PolicySpec::avoiding_stalled(
    Policy::RoundRobin,
    Some(Duration::from_millis(10)),
));

/// No policy may be called so.
const SHARED: &str = "shared";

impl Contender {
    /// A policy without an option.
    pub const fn plain(policy: Policy) -> Self {
        Self::Policy(PolicySpec::plain(policy))
    }

    /// Whether a scenario tells it from the others: `weighted` is `round-robin` where no weights
    /// differ.
    pub fn differs(self, scenario: &Scenario, others: &[Self]) -> bool {
        let Self::Policy(PolicySpec { policy: Policy::Weighted, options }) = self else {
            return true;
        };
        let same = Self::Policy(PolicySpec { policy: Policy::RoundRobin, options });
        !others.contains(&same) || scenario.weights.windows(2).any(|pair| pair[0] != pair[1])
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(policy) => policy.fmt(f),
            Self::Shared => f.pad(SHARED),
        }
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == SHARED {
            return Ok(Self::Shared);
        }
        match name.parse::<PolicySpec>() {
            Ok(spec) if spec.policy != Policy::Fixed => return Ok(Self::Policy(spec)),
            Err(error) if name.contains('+') => return Err(error),
            _ => {}
        }
        let policies = Policy::ALL.into_iter().filter(|policy| *policy != Policy::Fixed);
        let names: Vec<&str> = policies.map(Policy::name).chain([SHARED]).collect();
        Err(format!("`{name}` is not a policy to compare; choose from {}", names.join(", ")))
    }
}

impl From<Contender> for String {
    fn from(contender: Contender) -> Self {
        contender.to_string()
    }
}

impl TryFrom<String> for Contender {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::standard;

    #[test]
    fn a_contender_is_read_back_from_its_name() {
        for contender in STANDARD {
            assert_eq!(contender.to_string().parse(), Ok(contender));
            let json = serde_json::to_string(&contender).unwrap();
            assert_eq!(serde_json::from_str::<Contender>(&json).unwrap(), contender);
        }
        assert_eq!(AVOIDING.to_string(), "round-robin+avoid-stalled=10ms");
    }

    #[test]
    fn what_is_no_contender_is_refused_with_what_there_is() {
        for name in ["fixed", "fastest", ""] {
            let refusal = name.parse::<Contender>().unwrap_err();
            assert!(refusal.contains("round-robin") && refusal.contains("shared"), "{refusal}");
            assert!(refusal.contains(&format!("`{name}`")) && !refusal.contains("noop, fixed"));
        }
        let refusal = "hash+avoid-stalled=soon".parse::<Contender>().unwrap_err();
        assert!(refusal.contains("`soon`"), "{refusal}");
    }

    #[test]
    fn nothing_is_run_twice_under_two_names() {
        let weighted = Contender::plain(Policy::Weighted);
        let compared: Vec<_> = standard()
            .into_iter()
            .filter(|scenario| weighted.differs(scenario, &STANDARD))
            .collect();
        assert!(compared.iter().all(|scenario| !scenario.weights.is_empty()));
        assert_eq!(compared.len(), 1);
        for scenario in standard() {
            // Alone, it is what was asked for.
            assert!(weighted.differs(&scenario, &[KERNEL, weighted]));
            assert!(STANDARD[..7].iter().all(|contender| contender.differs(&scenario, &STANDARD)));
        }
    }
}
