//! The arguments of `compare` on a server of the user's own.

use std::ffi::OsString;

use balancer_steering::{address::ServedAddress, time_span::TimeSpan};
use clap::{ArgGroup, Args, builder::RangedU64ValueParser};

/// Policies in turn on a server of the user's own.
#[derive(Debug, Args)]
#[command(next_help_heading = "On your own server")]
#[command(group = ArgGroup::new("own").args(["address", "command"]).multiple(true)
    .conflicts_with_all(["scenarios", "trials", "quick", "report", "from", "list"]))]
pub struct LiveArgs {
    /// Compare on this group and its own traffic: ADDRESS:PORT, or :PORT; if it is not steered, it is for that
    /// time. With COMMAND: where that is to listen [default: 127.0.0.1, any free port]
    #[arg(value_name = "ADDRESS")]
    pub address: Option<ServedAddress>,

    /// Blocks of each policy; fewer than 6 say nothing about differences
    #[arg(long, value_name = "N", default_value_t = 8, requires = "own", value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub blocks: usize,

    /// How long each policy is in force at a time; with --load, as long as the load generator runs
    #[arg(long, value_name = "TIME", default_value = "8s", requires = "own")]
    pub block_time: TimeSpan,

    /// How much of a block's beginning is discarded [default: a quarter of it; with --load nothing]
    #[arg(long, value_name = "TIME", requires = "own")]
    pub burn_in: Option<TimeSpan>,

    /// Go back at once if p99 rises to more than so many times the first policy's
    #[arg(long, value_name = "FACTOR", default_value = "2x", requires = "own", value_parser = factor)]
    pub max_worse: f64,

    /// Run this command in each block, by the shell; {address} in it becomes the server's address
    #[arg(long, value_name = "CMD", requires = "own")]
    pub load: Option<String>,

    /// Let COMMAND bind for itself, at ADDRESS, with SO_REUSEPORT
    #[arg(long, requires_all = ["command", "address"])]
    pub self_bind: bool,

    /// Do not ask before the policy of a live server is switched
    #[arg(long, requires = "own")]
    pub yes: bool,

    /// Start this server, --workers times as `balancer run` does, and compare on it, under --load
    #[arg(last = true, value_name = "COMMAND", requires = "load")]
    pub command: Vec<OsString>,
}

fn factor(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
    number
        .ok()
        .filter(|factor| factor.is_finite() && *factor > 1.0)
        .ok_or_else(|| format!("`{text}` is not a factor above 1; write it as in 2x or 1.5"))
}
