//! Arguments of `metrics`.

use std::path::PathBuf;

use balancer_steering::{address::ListenAddress, service::ServiceName, time_span::TimeSpan};
use clap::Args;

/// Arguments of `metrics`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer metrics                                      once, to standard output
  balancer metrics --listen 127.0.0.1:9464              serves http://127.0.0.1:9464/metrics
  balancer metrics --listen 127.0.0.1:9464 --observe    with times of requests
  balancer metrics --textfile /var/lib/prometheus/node-exporter/balancer.prom
  balancer metrics --textfile balancer.prom --once

Everything is read from the kernel when it is asked for, so no agent is needed. Without --observe there
are times of requests only while something else has them tracked. docs/metrics.md lists all metrics;
contrib/ has a dashboard and alerts.")]
pub struct MetricsArgs {
    /// Serve them at this address under /metrics, until SIGINT or SIGTERM: ADDRESS:PORT, or :PORT for
    /// every address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<ListenAddress>,

    /// Write them to a file for the textfile collector of node_exporter, again and again until SIGINT or
    /// SIGTERM, which removes it
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub textfile: Option<PathBuf>,

    /// How often the file is written
    #[arg(long, value_name = "TIME", default_value = "15s", requires = "textfile")]
    pub interval: TimeSpan,

    /// Write the file once and return; it stays
    #[arg(long, requires = "textfile", conflicts_with_all = ["interval", "observe"])]
    pub once: bool,

    /// This group only [default: all]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// The groups of this service only
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    pub service: Option<ServiceName>,

    /// Have requests tracked meanwhile, in all groups; needs Linux 6.3, and --listen or --textfile
    #[arg(long)]
    pub observe: bool,
}
