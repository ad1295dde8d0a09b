//! The command line, and nothing else: what the words mean is checked by the commands.

mod compare;
mod flow;
mod hidden;
mod live;
mod metrics;
mod policy_options;
mod run;
mod top;
mod values;

use std::path::PathBuf;

use crate::{
    admission::Admit,
    idle_grace::{self, IdleGrace},
};
use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::Resettable,
};
use clap_complete::Shell;

pub use self::{
    compare::CompareArgs,
    flow::FlowArgs,
    hidden::{ComparedArgs, WorkerArgs},
    live::LiveArgs,
    metrics::MetricsArgs,
    policy_options::{ChangedPolicyOptionArgs, PolicyOptionArgs},
    run::{Ready, ReloadArgs, RunArgs, ScaleArgs},
    top::TopArgs,
};
use balancer_steering::{
    address::{AttachAddress, ServedAddress},
    discovery::NetnsArgument,
    policy::Policy,
    privilege,
    service::ServiceName,
    steering::DEFAULT_BPFFS,
    time_span::TimeSpan,
    weight::WorkerWeight,
    who::Who,
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

    /// What to report on standard error; `debug` shows every choice that the programs make
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// End when this process does, which must be the parent; for what `compare` starts
    #[arg(long, value_name = "PID", hide = true)]
    pub end_with: Option<u32>,
}

impl Cli {
    /// Parses what was typed, and ends the process if that cannot be meant. Under raised rights the
    /// environment has no say in it.
    pub fn from_command_line() -> Self {
        let mut command = Self::command();
        if privilege::are_raised() {
            command = command.mut_arg("bpffs", |bpffs| bpffs.env(Resettable::Reset));
        }
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// How much is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// Also what is unusual.
    Warn,
    /// Also what happens to workers.
    Info,
    /// Also every choice of the programs.
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
    /// Have `run` keep more workers, or fewer, losing no connection
    Scale(ScaleArgs),
    /// Show members, weights and shares of a group
    Status(StatusArgs),
    /// Watch connections, requests and their times live, by worker, and change groups by a key
    Top(TopArgs),
    /// List every group of sockets that share an address, whoever started them
    Groups(GroupsArgs),
    /// Switch the policy of a group
    Policy(PolicyArgs),
    /// Change weights in a group
    Weight(WeightArgs),
    /// Give workers no new connections; those they have go on
    Drain(DrainArgs),
    /// Give drained workers new connections again
    Resume(ResumeArgs),
    /// Give a group back to the kernel's hash; its workers go on
    Detach(DetachArgs),
    /// Compare policies with the kernel's own hash: under loads of its own, or on a server that runs
    Compare(CompareArgs),
    /// Print, serve or write metrics of all groups for Prometheus
    Metrics(MetricsArgs),
    /// Check what this machine lacks, and say how to fix it
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
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer attach :8080                                 every server on that port, until Ctrl-C
  balancer attach 127.0.0.1:8080 --policy weighted      then: balancer weight PID=3
  balancer attach :443 --udp                            QUIC, DTLS, SIP: a session stays together
  balancer attach :53 --udp --flow none --once          DNS; stays after the command has returned
  balancer attach :8080 --slow-start 1m                 servers that join get more by and by
  balancer attach :80 --netns 4711                      in a container
  balancer attach :80 :443 udp/:443 --service web       IPv4 and IPv6, TCP and UDP, as one

The servers must have set SO_REUSEPORT (nginx: `listen 80 reuseport`); `balancer groups` lists
those that have. Ctrl-C gives the group back to the kernel's hash; the servers do not notice.

A server that joins later is steered within 100 ms of its `listen`, which the kernel reports. UDP
has no such report, so new sockets are looked for every 50 ms. With --once no agent stays: a server
that joins later gets nothing while another lives, until you detach and attach again.

One server with several addresses is several groups. With --service they are steered together or not at
all, and the other commands act on all of them: balancer drain --service web 4711.

For UDP a choice is made for each flow: the datagrams from one address and port go to one server,
whatever else comes or goes, until nobody has sent for --flow-timeout. With --flow none each datagram
is a choice: `round-robin`, `weighted` and `random` spread those of one client over the servers.")]
pub struct AttachArgs {
    /// What the servers serve: ADDRESS:PORT, or :PORT for the only group on that port; with --service for
    /// all groups on it. udp/ or tcp/ before it says the protocol
    #[arg(value_name = "ADDRESS", required = true)]
    pub addresses: Vec<AttachAddress>,

    /// Steer the UDP sockets at addresses without a protocol
    #[arg(long)]
    pub udp: bool,

    /// Steer all groups at these addresses as one service of this name
    #[arg(long, value_name = "NAME")]
    pub service: Option<ServiceName>,

    /// How the server of a new connection (UDP: of a flow) is chosen [default: round-robin]
    #[arg(long, value_name = "POLICY", value_parser = values::policy())]
    pub policy: Option<Policy>,

    /// Its options
    #[command(flatten)]
    pub options: PolicyOptionArgs,

    /// What belongs together
    #[command(flatten)]
    pub flow: FlowArgs,

    /// Look in another network namespace
    #[arg(long, value_name = "PID|PATH")]
    pub netns: Option<NetnsArgument>,

    /// Attach and return, rather than watch for servers that come and go
    #[arg(long, conflicts_with = "slow_start")]
    pub once: bool,

    /// Which of the servers that come later are steered too
    #[arg(long, value_name = "WHO", default_value = "all", conflicts_with = "once")]
    pub admit: Admit,

    /// Take the group from another program that steers it, which cannot be put back; refused while a
    /// process or a pin keeps that program's socket array
    #[arg(long)]
    pub replace: bool,

    /// Go on with what a killed `attach` has left; its policy stays unless another is given
    #[arg(long, conflicts_with_all = ["once", "replace"])]
    pub takeover: bool,

    /// The group's name [default: PROTOCOL-PORT, or PROTOCOL-PORT-ADDRESS if that is taken]
    #[arg(long, value_name = "NAME", conflicts_with = "service")]
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
  balancer detach --group tcp-8080
  balancer detach --service web                         all of its groups")]
pub struct DetachArgs {
    /// What the group serves: ADDRESS:PORT, or :PORT
    #[arg(value_name = "ADDRESS", conflicts_with_all = ["group", "service"])]
    pub address: Option<ServedAddress>,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Which group a command means, or which service.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// The group's name; may be left out if there is only one group, or only one service
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// All groups of this service
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    pub service: Option<ServiceName>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer status
  balancer status --json | jq '.members[] | {pid, selected}'
  balancer status --service web                         each worker over all groups, then the groups")]
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
    /// Look into this network namespace only [default: all that processes are in]
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
  balancer policy hash --service web                    all of its groups, or none

Options that are not given stay as they are.")]
pub struct PolicyArgs {
    /// The new policy
    #[arg(value_name = "POLICY", value_parser = values::policy())]
    pub policy: Policy,

    /// Its options
    #[command(flatten)]
    pub options: ChangedPolicyOptionArgs,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Arguments of `weight`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer weight 4711=5 4712=1
  balancer weight --group tcp-80 4711=1000
  balancer weight slot:0=5 slot:1=3                    of a process with a socket per thread")]
pub struct WeightArgs {
    /// Workers, or of one that has several sockets one by its slot, and their new weights, 1 to 1000
    #[arg(value_name = "PID|slot:N=WEIGHT", required = true)]
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
  balancer drain slot:3                                 one socket of a process that has several
  balancer drain --service web 4711 --wait              in all groups; returns when all are empty

The last live worker is not drained. If all others die while a worker is drained, the kernel gives it
new connections, because otherwise it could only refuse them.")]
pub struct DrainArgs {
    /// Which workers; of one that has several sockets, one by its slot
    #[arg(value_name = "PID|slot:N", required = true)]
    pub whom: Vec<Who>,

    /// Return when they have no connection left, neither open nor waiting to be accepted; or only idle
    /// ones, see --idle-grace
    #[arg(long)]
    pub wait: bool,

    /// Do not wait for connections that owe no answer, once none of them has sent or been sent anything
    /// for this long; `off` waits until all are closed
    #[arg(long, value_name = "TIME|off", default_value = idle_grace::USUAL)]
    pub idle_grace: IdleGrace,

    /// Wait no longer than this, such as 500ms, 30s or 5m; then exit with 1
    #[arg(long, value_name = "TIME", requires = "wait")]
    pub timeout: Option<TimeSpan>,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  balancer resume 4711")]
pub struct ResumeArgs {
    /// Which workers; of one that has several sockets, one by its slot
    #[arg(value_name = "PID|slot:N", required = true)]
    pub whom: Vec<Who>,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}
