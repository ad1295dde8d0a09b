//! The command line, and nothing else: what the words mean is checked by the commands.

mod compare;
mod hidden;
mod run;
mod tuning;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;

pub use self::{
    compare::CompareArgs,
    hidden::{ComparedArgs, ExecWithSocketArgs, WorkerArgs},
    run::{Ready, ReloadArgs, RunArgs},
    tuning::{ChangedTuningArgs, TuningArgs},
};
use crate::{
    address::ServedAddress, attachment::admission::Admit, discovery::NetnsArgument,
    patience::Patience, policy::Policy, steering::DEFAULT_BPFFS, weight::WorkerWeight,
};

/// Steers new connections among the processes that share a port with SO_REUSEPORT: round robin,
/// weights and more instead of the kernel's hash, with no proxy in between.
#[derive(Debug, Parser)]
#[command(name = "balancer", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,

    /// The BPF file system that holds the groups' state
    #[arg(long, global = true, value_name = "DIR", env = "BALANCER_BPFFS", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,

    /// What to report on standard error; `debug` shows every choice the programs make
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
}

/// How much is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is odd.
    Warn,
    /// And what happens to workers.
    Info,
    /// And every choice of the programs.
    Debug,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start workers on one port and steer new connections among them
    Run(RunArgs),
    /// Steer servers that are already running, and those that join them
    Attach(AttachArgs),
    /// Replace the workers of `run` by new ones, one after another, losing no connection
    Reload(ReloadArgs),
    /// Show members, weights and shares of a group
    Status(StatusArgs),
    /// List every group of sockets that share an address, whoever started them
    Groups(GroupsArgs),
    /// Switch the policy of a running group
    Policy(PolicyArgs),
    /// Change weights in a running group
    Weight(WeightArgs),
    /// Give a worker no new connections; those it has go on
    Drain(DrainArgs),
    /// Give a drained worker new connections again
    Resume(ResumeArgs),
    /// Give a group back to the kernel's hash; its workers go on
    Detach(DetachArgs),
    /// Put the same load on several policies, side by side with the kernel's own hash
    Compare(CompareArgs),
    /// Check what this machine lacks, and say how to mend it
    Doctor,
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  balancer completions bash | sudo tee /etc/bash_completion.d/balancer"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Serve as a worker; started by `run`
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Become a command that finds its socket as systemd would hand it; started by `run`
    #[command(hide = true)]
    ExecWithSocket(ExecWithSocketArgs),
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer attach :8080                                 whoever shares that port, until Ctrl-C
  balancer attach 127.0.0.1:8080 --policy weighted      then: balancer weight PID=3
  balancer attach :53 --udp --policy hash --once        stays after the command has ended
  balancer attach :8080 --slow-start 1m                 servers that join get more by and by
  balancer attach :80 --netns 4711                      in a container

The servers must have set SO_REUSEPORT (nginx: `listen 80 reuseport`); `balancer groups` lists
those that have. Ctrl-C gives the group back to the kernel's hash; the servers never notice.

A server that joins later is steered within 100 ms of its `listen`: the kernel tells. For UDP it
does not, so sockets are looked for every 50 ms. With --once nobody looks: a server that joins
later gets nothing while another lives, until you detach and attach again.

For UDP a choice is made for each datagram: `round-robin`, `weighted` and `random` spread those of
one client over the servers; `hash` keeps those of a port together, and `sticky` all of a client's.")]
pub struct AttachArgs {
    /// What they serve: ADDRESS:PORT, or :PORT for the only group on that port
    #[arg(value_name = "ADDRESS")]
    pub address: ServedAddress,

    /// The UDP sockets there
    #[arg(long)]
    pub udp: bool,

    /// How a new connection's (UDP: a datagram's) server is chosen [default: round-robin]
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<Policy>,

    /// Its options
    #[command(flatten)]
    pub tuning: TuningArgs,

    /// Look in another network namespace
    #[arg(long, value_name = "PID|PATH")]
    pub netns: Option<NetnsArgument>,

    /// Attach and end, rather than watch for servers that come and go
    #[arg(long, conflicts_with = "slow_start")]
    pub once: bool,

    /// Which of the servers that come later are steered too
    #[arg(long, value_name = "WHO", default_value = "all", conflicts_with = "once")]
    pub admit: Admit,

    /// Take the group from another program that steers it, which cannot be put back
    #[arg(long)]
    pub replace: bool,

    /// Go on with what a killed `attach` has left; the policy stays unless it is given
    #[arg(long, conflicts_with_all = ["once", "replace"])]
    pub takeover: bool,

    /// The group's name [default: PROTOCOL-PORT]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer detach
  balancer detach :8080
  balancer detach --group tcp-8080")]
pub struct DetachArgs {
    /// What the group serves: ADDRESS:PORT, or :PORT
    #[arg(value_name = "ADDRESS", conflicts_with = "group")]
    pub address: Option<ServedAddress>,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Which group a command means.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// The group's name; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer status
  balancer status --json | jq '.members[] | {pid, selected}'")]
pub struct StatusArgs {
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `groups`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer groups
  balancer groups --netns 4711                          the namespace that PID 4711 is in
  balancer groups --netns /run/netns/blue
  balancer groups --json | jq '.groups[] | {address, steered}'")]
pub struct GroupsArgs {
    /// Look into one network namespace only [default: all that processes are in]
    #[arg(long, value_name = "PID|PATH")]
    pub netns: Option<NetnsArgument>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `policy`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer policy weighted
  balancer policy round-robin --avoid-stalled 50ms
  balancer policy least-connections --load reported

Options that are not given stay as they are.")]
pub struct PolicyArgs {
    /// The new policy
    #[arg(value_name = "POLICY")]
    pub policy: Policy,

    /// Its options
    #[command(flatten)]
    pub tuning: ChangedTuningArgs,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Arguments of `weight`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer weight 4711=5 4712=1
  balancer weight --group tcp-80 4711=1000")]
pub struct WeightArgs {
    /// Workers and their new weights, 1 to 1000
    #[arg(value_name = "PID=WEIGHT", required = true)]
    pub weights: Vec<WorkerWeight>,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Arguments of `drain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer drain 4711
  balancer drain 4711 --wait --timeout 30s && kill 4711

The last worker that is live is not drained. Should all others die while one is drained, the kernel
gives it new connections, as the only other thing it could do is to refuse them.")]
pub struct DrainArgs {
    /// Which workers
    #[arg(value_name = "PID", required = true, value_parser = value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,

    /// Return when they have no connection left, neither open nor waiting to be accepted
    #[arg(long)]
    pub wait: bool,

    /// Wait no longer than that, such as 500ms, 30s or 5m; then exit with 1
    #[arg(long, value_name = "TIME", requires = "wait")]
    pub timeout: Option<Patience>,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  balancer resume 4711")]
pub struct ResumeArgs {
    /// Which workers
    #[arg(value_name = "PID", required = true, value_parser = value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}
