//! Arguments of `top`.

use balancer_steering::{service::ServiceName, time_span::TimeSpan};
use clap::Args;

/// Arguments of `top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer top                                  in a terminal, until q
  balancer top --group tcp-8080 --interval 5s
  balancer top --json --count 3                 three lines a group, for a pipe

Keys: Tab and the arrows select a group and a worker, Enter shows the worker's times, t switches between
times to answer and times until read, s sorts, q quits. p switches the group's policy; w, d and r change
the worker's weight, drain it and resume it, as the commands of these names do. Nothing is changed before
y confirms it.

Requests are tracked meanwhile, in all groups (Linux 6.3); below that, connections are shown. p50 and p99
are of the times to answer that ended within the last interval, READ is the p99 of the time until a worker
read. What is not known is a dash.")]
pub struct TopArgs {
    /// How often figures are shown, and what rates and times are taken over; at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub interval: TimeSpan,

    /// Print one JSON object a line for each group and interval
    #[arg(long)]
    pub json: bool,

    /// End after so many intervals
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// This group only [default: all]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// The groups of this service only
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    pub service: Option<ServiceName>,
}
