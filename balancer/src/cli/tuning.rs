//! The options that go with a policy.

use clap::Args;

use crate::{
    patience::Patience,
    tuning::{Load, Tolerance, Tuning},
};

/// Options of `run` and `attach`.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Options of the policy")]
pub struct TuningArgs {
    /// What least-connections and two-choices compare
    #[arg(long, value_name = "LOAD", default_value = "connections")]
    pub load: Load,

    /// Leave out a worker that has taken none of those who wait for this long, such as 50ms
    #[arg(long, value_name = "TIME|off", default_value = "off")]
    pub avoid_stalled: Tolerance,

    /// Let the weight of a worker that joins others grow to its own in this time, from a tenth, such as
    /// 10s; those of the first start have theirs at once
    #[arg(long, value_name = "TIME")]
    pub slow_start: Option<Patience>,
}

/// Options of `policy`: what is not given stays as it is.
#[derive(Clone, Copy, Debug, Args)]
pub struct ChangedTuningArgs {
    /// What least-connections and two-choices compare
    #[arg(long, value_name = "LOAD")]
    pub load: Option<Load>,

    /// Leave out a worker that has taken none of those who wait for this long, such as 50ms
    #[arg(long, value_name = "TIME|off")]
    pub avoid_stalled: Option<Tolerance>,
}

impl TuningArgs {
    /// What they say.
    pub fn tuning(self) -> Tuning {
        Tuning {
            load: self.load,
            avoid_stalled: self.avoid_stalled.0,
            slow_start: self.slow_start.map(|time| time.0),
        }
    }
}

impl ChangedTuningArgs {
    /// What they make of what was.
    pub fn tuning(self, before: Tuning) -> Tuning {
        Tuning {
            load: self.load.unwrap_or(before.load),
            avoid_stalled: self.avoid_stalled.map_or(before.avoid_stalled, |time| time.0),
            ..before
        }
    }
}
