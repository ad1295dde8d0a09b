//! A policy and its options in one word, such as `round-robin+avoid-stalled=10ms`. Pure.

use std::{fmt, str::FromStr, time::Duration};

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use crate::{
    policy::Policy,
    tuning::{Load, Tolerance, Tuning},
};

/// A policy and its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TunedPolicy {
    /// How slots are chosen.
    pub policy: Policy,
    /// And with what options. Of these, only `avoid_stalled` can be written.
    pub tuning: Tuning,
}

const AVOID_STALLED: &str = "+avoid-stalled=";

impl TunedPolicy {
    /// A policy without an option.
    pub const fn plain(policy: Policy) -> Self {
        let tuning = Tuning { load: Load::Connections, avoid_stalled: None, slow_start: None };
        Self { policy, tuning }
    }

    /// A policy that leaves out workers whose queue has stood still for that long.
    pub const fn avoiding_stalled(policy: Policy, time: Duration) -> Self {
        let Self { policy, tuning } = Self::plain(policy);
        Self { policy, tuning: Tuning { avoid_stalled: Some(time), ..tuning } }
    }
}

impl fmt::Display for TunedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tuning.avoid_stalled {
            None => f.pad(self.policy.name()),
            time => f.pad(&format!("{}{AVOID_STALLED}{}", self.policy.name(), Tolerance(time))),
        }
    }
}

impl FromStr for TunedPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, time) = match text.split_once(AVOID_STALLED) {
            None => (text, None),
            Some((name, time)) => (name, Some(time)),
        };
        let policy = Policy::from_str(name, false).map_err(|_| {
            format!(
                "`{text}` is no policy; an option is written as in round-robin{AVOID_STALLED}10ms"
            )
        })?;
        let Some(time) = time else { return Ok(Self::plain(policy)) };
        let Tolerance(time) = time.parse::<Tolerance>().map_err(|error| error.to_string())?;
        match time {
            Some(_) if !policy.steers() => {
                Err(format!("`{text}` cannot be: {name} chooses nobody, so it avoids nobody"))
            }
            Some(time) => Ok(Self::avoiding_stalled(policy, time)),
            None => Ok(Self::plain(policy)),
        }
    }
}

impl From<TunedPolicy> for String {
    fn from(policy: TunedPolicy) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for TunedPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_policy_is_read_back_from_its_name(
            policy in prop::sample::select(Policy::value_variants()),
            millis in prop::option::of(1..=3_600_000u64),
        ) {
            let tuned = match millis.filter(|_| policy.steers()) {
                None => TunedPolicy::plain(policy),
                Some(millis) => {
                    TunedPolicy::avoiding_stalled(policy, Duration::from_millis(millis))
                }
            };
            prop_assert_eq!(tuned.to_string().parse(), Ok(tuned));
            let json = serde_json::to_string(&tuned).unwrap();
            prop_assert_eq!(serde_json::from_str::<TunedPolicy>(&json).unwrap(), tuned);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<TunedPolicy>();
            let _ = format!("round-robin{AVOID_STALLED}{text}").parse::<TunedPolicy>();
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_what_is_wrong() {
        for (text, says) in [
            ("fastest", "`fastest` is no policy"),
            ("round-robin+slowly", "`round-robin+slowly` is no policy"),
            ("round-robin+avoid-stalled", "round-robin+avoid-stalled=10ms"),
            ("round-robin+avoid-stalled=soon", "`soon` is not how long"),
            ("kernel+avoid-stalled=10ms", "kernel chooses nobody"),
        ] {
            let refusal = text.parse::<TunedPolicy>().unwrap_err();
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
    }
}
