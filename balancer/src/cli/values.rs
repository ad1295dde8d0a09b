//! Words of the library as values of the command line: listed in `--help`, completed by shells.

use balancer_steering::{metric::Metric, policy::Policy};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// A policy; references for measurements are taken and not listed.
pub(super) fn policy() -> impl TypedValueParser<Value = Policy> {
    let value = |policy: Policy| {
        let how = if policy == Policy::Cpu { "; see `run --pin`" } else { "" };
        let help = format!("{}{how}", policy.summary());
        PossibleValue::new(policy.name()).help(help).hide(policy.is_reference())
    };
    PossibleValuesParser::new(Policy::ALL.map(value)).try_map(|name| name.parse::<Policy>())
}

/// What counts as load.
pub(super) fn load() -> impl TypedValueParser<Value = Metric> {
    let value = |load: Metric| PossibleValue::new(load.name()).help(load.summary());
    PossibleValuesParser::new(Metric::ALL.map(value)).try_map(|name| name.parse::<Metric>())
}
