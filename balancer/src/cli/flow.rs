//! Which datagrams belong together.

use balancer_steering::{
    flows::{Flows, ROOM, TIMEOUT},
    time_span::TimeSpan,
};
use clap::{Args, ValueEnum, value_parser};

use crate::error::UsageError;

/// What these options are listed under.
const HEADING: &str = "UDP";

/// How a flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FlowKind {
    /// By the client's address and port: its datagrams go to one server, drained or not, while that lives
    Client,
    /// Not at all: each datagram is a choice, as for DNS, syslog or statsd
    None,
}

/// Options of `run` and `attach`.
#[derive(Clone, Copy, Debug, Args)]
pub struct FlowArgs {
    /// Which datagrams belong together [default: client]
    #[arg(long, value_name = "KIND", conflicts_with = "takeover", help_heading = HEADING)]
    pub flow: Option<FlowKind>,

    /// A flow ends when nobody has sent for this long; one whose client has not sent again after an answer
    /// ends after 30s at the latest [default: 120s]
    #[arg(long, value_name = "TIME", conflicts_with = "takeover", help_heading = HEADING)]
    pub flow_timeout: Option<TimeSpan>,

    /// Keep at least so many flows, 24 octets of the kernel's memory each; beyond that the ones that have
    /// no answer make room first [default: 131072]
    #[arg(long, value_name = "NUMBER", conflicts_with = "takeover", value_parser = value_parser!(u32).range(1..=1_000_000), help_heading = HEADING)]
    pub max_flows: Option<u32>,
}

impl FlowArgs {
    /// The flows of a UDP group, if it has any.
    pub fn flows(self) -> Option<Flows> {
        match self.flow {
            Some(FlowKind::None) => None,
            _ => {
                let timeout = self.flow_timeout.map_or(TIMEOUT, |time| time.0);
                Some(Flows::new(timeout, self.max_flows.unwrap_or(ROOM)))
            }
        }
    }

    /// Refuses what says how a table is to be that there is not.
    ///
    /// # Errors
    /// Returns an error if `--flow none` stands beside options of the table.
    pub fn check(self) -> Result<(), UsageError> {
        let table = self.flow_timeout.is_some() || self.max_flows.is_some();
        if self.flow == Some(FlowKind::None) && table {
            return Err(UsageError::new(
                "with --flow none there are no flows; leave out --flow-timeout and --max-flows",
            ));
        }
        Ok(())
    }

    /// Whether any of them is given.
    pub fn is_asked_for(self) -> bool {
        self.flow.is_some() || self.flow_timeout.is_some() || self.max_flows.is_some()
    }
}
