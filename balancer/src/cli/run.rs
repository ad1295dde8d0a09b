//! The arguments of `run`, and of `reload` and `scale`, which concern what it started.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

use super::{FlowArgs, GroupArgs, PolicyOptionArgs};
use balancer_steering::{
    address::ListenAddress, policy::Policy, time_span::TimeSpan, weight::Weight,
};

use crate::{
    idle_grace::{self, IdleGrace},
    supervisor::StopSignal,
    user::User,
};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer run                                          one worker per CPU on 127.0.0.1:8080
  balancer run --policy weighted --weights 5,3,2        three workers, half of all to the first
  balancer run --policy cpu --pin                       each CPU's connections to the worker on it
  balancer run --policy sticky --slow-start 30s         a client keeps its worker
  balancer run --listen [::]:80 --workers 4             IPv4 and IPv6
  balancer run --listen 127.0.0.1:0 --quiet --name a    any free port, no output
  balancer run --workers 3 -- python3 server.py         any command, three times
  balancer run --stop-signal QUIT --self-bind --listen :80 -- nginx -g 'daemon off;'
  balancer run --workers 2 -- ./server --metrics 91{worker}0
  balancer run --listen :80 --user www-data -- ./srv    a port that only root may open
  balancer run --self-bind --listen 0.0.0.0:80 -- ./server --port 80
  balancer run --udp --listen :443 --workers 4 -- ./quic-server

A command finds its socket as descriptor 3, as systemd would hand it over: LISTEN_FDS is 1,
LISTEN_PID its PID, and LISTEN_FDNAMES the group's name. BALANCER_WORKER is the worker's number from 0,
which stays when it is started again or replaced, and so is {worker} in its arguments. It must stay in
the foreground, and end on --stop-signal. With --self-bind it opens the socket itself, on the address of --listen, with SO_REUSEPORT.

Ctrl-C stops, after requests in flight are finished; a second one stops at once. SIGHUP reloads, as
`balancer reload` does; if the terminal is gone it stops instead, and under nohup it is ignored.

A killed balancer leaves its workers running and steered. The same command with --takeover goes on
with them, and starts those that died meanwhile; policy and weights stay unless they are given.")]
pub struct RunArgs {
    /// Where to listen: ADDRESS:PORT, or :PORT for every address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: ListenAddress,

    /// Give the workers UDP sockets
    #[arg(long)]
    pub udp: bool,

    /// What belongs together
    #[command(flatten)]
    pub flow: FlowArgs,

    /// How many workers to start [default: one per CPU, or as many as there are weights]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// How the worker of a new connection is chosen [default: round-robin]
    #[arg(long, value_name = "POLICY", value_parser = super::values::policy())]
    pub policy: Option<Policy>,

    /// Its options
    #[command(flatten)]
    pub options: PolicyOptionArgs,

    /// Pin each worker to a CPU of its own; if there are more workers than CPUs, in turn
    #[arg(long)]
    pub pin: bool,

    /// Run workers as this user, without any of root's rights; their sockets are opened before that
    #[arg(long, value_name = "NAME")]
    pub user: Option<User>,

    /// The workers' weights, 1 to 1000 each
    #[arg(long, value_name = "W,…", value_delimiter = ',')]
    pub weights: Vec<Weight>,

    /// The group's name [default: tcp-PORT]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,

    /// Let the command bind for itself, and steer what it bound
    #[arg(long, requires = "command")]
    pub self_bind: bool,

    /// How a command is known to be ready: it listens, or it sends READY=1 as to systemd (sd_notify)
    #[arg(long, value_name = "SIGN", default_value = "listen", requires = "command")]
    pub ready: Ready,

    /// How long a worker may take to get ready
    #[arg(long, alias = "bind-timeout", value_name = "TIME", default_value = "30s")]
    pub ready_timeout: TimeSpan,

    /// How long a worker that a reload replaces may take to finish its connections, and then to end
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub drain_timeout: TimeSpan,

    /// Do not wait for connections that owe no answer, once none of them has sent or been sent anything
    /// for this long; `off` waits until all are closed
    #[arg(long, value_name = "TIME|off", default_value = idle_grace::USUAL)]
    pub idle_grace: IdleGrace,

    /// The signal that asks a command to finish and end; `QUIT` for nginx
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", requires = "command")]
    pub stop_signal: StopSignal,

    /// How long a worker may take to end once it was asked to, until it is killed [default: in a reload as
    /// --drain-timeout; at the end of all as long as it takes]
    #[arg(long, value_name = "TIME")]
    pub kill_after: Option<TimeSpan>,

    /// Give up, end all workers and exit with 1, when one that did not live for 10 s was started again this
    /// often [default: never]
    #[arg(long, value_name = "N")]
    pub max_restarts: Option<u32>,

    /// Go on with the workers that a killed `run` has left
    #[arg(long)]
    pub takeover: bool,

    /// What each worker runs [default: a small HTTP server]
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How a command is known to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ready {
    /// It listens; if it is handed its socket, it has run for a second
    Listen,
    /// It sends READY=1 to the socket that NOTIFY_SOCKET names
    Notify,
}

/// Arguments of `reload`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer reload
  balancer reload --group tcp-8080 && echo all new
  balancer reload --parallel 4                          four at a time

Worker by worker: a new one is started in a slot of its own. Once it is ready it gets the new
connections, and the old one gets SIGTERM once it has no connection left or only idle ones
(--idle-grace of `balancer run`), or once --drain-timeout of `balancer run` is over. The built-in
worker is started from the file that is now at the path of the running balancer, a command by its
path.

A new worker that does not get ready within --ready-timeout stops the reload: the old workers stay,
and the exit code is 1. Ctrl-C ends the waiting, not the reload. A second reload begins when the first
has ended.")]
pub struct ReloadArgs {
    /// How many workers are replaced at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: u32,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Arguments of `scale`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  balancer scale 6
  balancer scale 2 --group tcp-8080 && echo done

New workers get connections once they are ready. Of more than N, those with the highest numbers get no new
connections, and end as those that a reload replaces. It returns when all that start serve, and all that
end have. Ctrl-C ends the waiting, not the change.")]
pub struct ScaleArgs {
    /// How many workers there are to be
    #[arg(value_name = "N")]
    pub workers: u32,

    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}
