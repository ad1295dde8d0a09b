//! The arguments of `compare`.

use std::path::PathBuf;

use balancer_lab::contender::Contender;
use clap::{Args, builder::RangedU64ValueParser};

use super::LiveArgs;

/// Arguments of `compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer compare --quick
  balancer compare --policies round-robin,weighted --scenario slow-worker --trials 9
  balancer compare --policies hash,hash+avoid-stalled=50ms --scenario stalled-worker
  balancer compare --scenario exponential --workers 16         against what theory says
  balancer compare --report report.html --json report.json
  balancer compare --from report.json --report report.html     render again, without running
  balancer compare :8080                                       on a server that runs, and its traffic
  balancer compare :8080 --policies kernel,least-connections --blocks 12 --block-time 10s --json live.json
  balancer compare 127.0.0.1:8080 --load 'wrk --latency -t1 -c64 -d5s http://{address}/'
  balancer compare --load 'wrk -t1 -c64 -d5s http://{address}/' -- ./server

With ADDRESS or COMMAND the policies take turns on a server of your own, in an order that is drawn for
each round; at the end, on Ctrl-C, and if answers get worse, what was in force before is in force again.

Without them it runs in a network namespace of its own, on workers of its own, and keeps all CPUs from idling
meanwhile, at the lowest priority. Whatever else this machine does disturbs the figures. Ctrl-C ends
it with the results there are by then.")]
pub struct CompareArgs {
    /// On the user's own server
    #[command(flatten)]
    pub live: LiveArgs,

    /// What to compare with the kernel's hash [default: shared, round-robin, least-connections,
    /// two-choices, shortest-queue, round-robin+avoid-stalled=10ms, weighted]
    ///
    /// Each is a policy, if need be with an option, as in round-robin+avoid-stalled=10ms; or `shared`,
    /// one socket for all workers; or `noop`, a program that chooses nothing. If no weights differ,
    /// weighted is the same as round-robin, and is left out beside it. All clients of a comparison have
    /// one address and no worker has a CPU to itself, so sticky and cpu say nothing here.
    #[arg(long, value_name = "POLICY,…", value_delimiter = ',')]
    pub policies: Vec<Contender>,

    /// Under which loads; `--list` names them [default: all]
    #[arg(
        long = "scenario",
        visible_alias = "scenarios",
        value_name = "SCENARIO,…",
        value_delimiter = ','
    )]
    pub scenarios: Vec<String>,

    /// Trials of each policy in each scenario; fewer than 5 say nothing about differences
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub trials: usize,

    /// So many workers, each with as much to do as those of the scenario [default: 4; with COMMAND one per CPU]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub workers: Option<usize>,

    /// What arrivals and service times are drawn from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Run only the scenarios and policies that tell most, in about a minute
    #[arg(long, conflicts_with = "scenarios")]
    pub quick: bool,

    /// Write a page with charts to this file, to be opened in a browser
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Write every trial to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Run nothing; read the file that an earlier comparison wrote with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policies", "scenarios", "workers", "trials", "seed", "quick", "json"])]
    pub from: Option<PathBuf>,

    /// List the scenarios
    #[arg(long)]
    pub list: bool,
}
