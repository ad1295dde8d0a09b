//! A policy and its options in one word, such as `round-robin+avoid-stalled=10ms`. Pure.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    metric::Metric,
    options::{PolicyOptions, STALL, StallThreshold},
    policy::Policy,
};

/// A policy and its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PolicySpec {
    /// How slots are chosen.
    pub policy: Policy,
    /// And with what options. Of these, only `avoid_stalled` can be written.
    pub options: PolicyOptions,
}

const AVOID_STALLED: &str = "+avoid-stalled=";

impl PolicySpec {
    /// A policy without an option.
    pub const fn plain(policy: Policy) -> Self {
        let options = PolicyOptions {
            load: Metric::Connections,
            avoid_stalled: Some(STALL),
            slow_start: None,
            max_share: None,
            observe: false,
        };
        Self { policy, options }
    }

    /// A policy that leaves out workers whose queue has stood still for that long; none for `None`.
    pub const fn avoiding_stalled(policy: Policy, time: Option<Duration>) -> Self {
        let Self { policy, options } = Self::plain(policy);
        Self { policy, options: PolicyOptions { avoid_stalled: time, ..options } }
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.options.avoid_stalled {
            Some(STALL) => f.pad(self.policy.name()),
            time => {
                f.pad(&format!("{}{AVOID_STALLED}{}", self.policy.name(), StallThreshold(time)))
            }
        }
    }
}

impl FromStr for PolicySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, time) = match text.split_once(AVOID_STALLED) {
            None => (text, None),
            Some((name, time)) => (name, Some(time)),
        };
        let policy = name.parse::<Policy>().map_err(|_| {
            format!(
                "`{text}` is not a policy; an option is written as in round-robin{AVOID_STALLED}10ms"
            )
        })?;
        let Some(time) = time else { return Ok(Self::plain(policy)) };
        let StallThreshold(time) =
            time.parse::<StallThreshold>().map_err(|error| error.to_string())?;
        match time {
            _ if !policy.steers() => Err(format!(
                "`{text}` is not possible: {name} does not choose, so it cannot leave out stalled workers"
            )),
            time => Ok(Self::avoiding_stalled(policy, time)),
        }
    }
}

impl From<PolicySpec> for String {
    fn from(policy: PolicySpec) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for PolicySpec {
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
            policy in prop::sample::select(Policy::ALL.to_vec()),
            millis in prop::option::of(1..=3_600_000u64),
        ) {
            let spec = match millis.filter(|_| policy.steers()) {
                None => PolicySpec::plain(policy),
                Some(millis) => {
                    PolicySpec::avoiding_stalled(policy, Some(Duration::from_millis(millis)))
                }
            };
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            let json = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<PolicySpec>(&json).unwrap(), spec);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<PolicySpec>();
            let _ = format!("round-robin{AVOID_STALLED}{text}").parse::<PolicySpec>();
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_what_is_wrong() {
        for (text, says) in [
            ("fastest", "`fastest` is not a policy"),
            ("round-robin+slowly", "`round-robin+slowly` is not a policy"),
            ("round-robin+avoid-stalled", "round-robin+avoid-stalled=10ms"),
            ("round-robin+avoid-stalled=soon", "`soon` is not a time"),
            ("kernel+avoid-stalled=10ms", "kernel does not choose"),
        ] {
            let refusal = text.parse::<PolicySpec>().unwrap_err();
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
    }
}
