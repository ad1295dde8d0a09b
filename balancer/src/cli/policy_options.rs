//! The options that go with a policy.

use balancer_steering::{
    metric::Metric,
    options::{PolicyOptions, Share, StallThreshold},
    time_span::TimeSpan,
};
use clap::Args;

/// What these options are listed under.
const HEADING: &str = "Options of the policy";

/// Options of `run` and `attach`.
#[derive(Clone, Copy, Debug, Args)]
pub struct PolicyOptionArgs {
    /// What least-connections and two-choices compare
    #[arg(long, value_name = "LOAD", default_value = "connections", value_parser = super::values::load(), help_heading = HEADING)]
    pub load: Metric,

    /// Leave out a worker that has accepted nothing for this long although connections wait
    #[arg(long, value_name = "TIME|off", default_value = "200ms", help_heading = HEADING)]
    pub avoid_stalled: StallThreshold,

    /// Let the share of a worker that joins others grow from a tenth to the whole in this time, such as
    /// 10s; workers of the first start have their whole share at once
    #[arg(long, value_name = "TIME", help_heading = HEADING)]
    pub slow_start: Option<TimeSpan>,

    /// Give one worker no more than this share of new connections, such as 50%, under the policies that
    /// compare loads: a worker that answers all requests at once, with an error, has the least to do
    #[arg(long, value_name = "PERCENT", help_heading = HEADING)]
    pub max_share: Option<Share>,

    /// Track requests all the time, not only while `top`, `metrics` or `compare` looks at them or the
    /// policy goes by them (Linux 6.3)
    #[arg(long, conflicts_with = "no_count", help_heading = HEADING)]
    pub observe: bool,

    /// Do not count connections, which saves the last percent; then it is not known what members have
    /// open, nor which of them has stalled
    #[arg(long, conflicts_with = "takeover", help_heading = HEADING)]
    pub no_count: bool,
}

/// Options of `policy`: what is not given stays as it is.
#[derive(Clone, Copy, Debug, Args)]
pub struct ChangedPolicyOptionArgs {
    /// What least-connections and two-choices compare
    #[arg(long, value_name = "LOAD", value_parser = super::values::load())]
    pub load: Option<Metric>,

    /// Leave out a worker that has accepted nothing for this long although connections wait, such as 50ms
    #[arg(long, value_name = "TIME|off")]
    pub avoid_stalled: Option<StallThreshold>,

    /// Give one worker no more than this share of new connections, such as 50%; 100% for no limit
    #[arg(long, value_name = "PERCENT")]
    pub max_share: Option<Share>,
}

impl PolicyOptionArgs {
    /// What they say.
    pub fn options(self) -> PolicyOptions {
        PolicyOptions {
            load: self.load,
            avoid_stalled: self.avoid_stalled.0,
            slow_start: self.slow_start.map(|time| time.0),
            max_share: self.max_share,
            observe: self.observe,
        }
    }
}

impl ChangedPolicyOptionArgs {
    /// What they make of what was.
    pub fn options(self, before: PolicyOptions) -> PolicyOptions {
        PolicyOptions {
            load: self.load.unwrap_or(before.load),
            avoid_stalled: self.avoid_stalled.map_or(before.avoid_stalled, |time| time.0),
            max_share: self.max_share.or(before.max_share).filter(|share| share.percent() < 100),
            ..before
        }
    }
}
