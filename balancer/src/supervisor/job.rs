//! What a worker runs, and how it comes by its socket.

use std::{ffi::OsString, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    process::Command,
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep},
};

use super::{
    child::{Event, Launch, Readiness},
    seats::Seat,
};
use crate::{
    discovery::{self, NotBound},
    handover::Handover,
    process::Identity,
};

/// How often a command that binds for itself is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// What a worker runs.
#[derive(Clone, Debug)]
pub enum Job {
    /// The built-in server, with more arguments; its socket is its standard input.
    BuiltIn(Vec<String>),
    /// A command that is handed its socket.
    Command(Vec<OsString>),
    /// A command that binds for itself.
    SelfBind {
        /// What to run.
        command: Vec<OsString>,
        /// How long it may take to bind.
        within: Duration,
    },
}

impl Default for Job {
    fn default() -> Self {
        Self::BuiltIn(Vec::new())
    }
}

impl Job {
    /// Whether it is somebody else's program.
    pub fn is_foreign(&self) -> bool {
        !matches!(self, Self::BuiltIn(_))
    }

    /// Whether it needs no socket to start.
    pub fn binds(&self) -> bool {
        matches!(self, Self::SelfBind { .. })
    }

    /// How to start it, with the seat that it needs unless it [binds](Self::binds).
    ///
    /// # Errors
    /// Where no pipe can be had.
    pub(super) fn launch(&self, group: &str, bpffs: &Path, seat: Option<Seat>) -> Result<Launch> {
        let slot = seat.as_ref().map_or(0, |seat| seat.slot);
        let (socket, report) = seat.map(|seat| (seat.socket, seat.report)).unzip();
        let stdin = socket.map_or_else(Stdio::null, Stdio::from);
        Ok(match self {
            Self::BuiltIn(arguments) => {
                let mut process = Command::new("/proc/self/exe");
                process.arg("--bpffs").arg(bpffs);
                process
                    .args(["worker", "--slot", &slot.to_string(), "--group", group])
                    .args(arguments);
                Launch { process, stdin, readiness: Readiness::FirstLine, kept: Vec::new() }
            }
            Self::Command(command) => {
                let handover = Handover::new(group, slot, report.flatten(), command);
                let Handover { process, report, kept } =
                    handover.context("cannot prepare what a command inherits")?;
                Launch { process, stdin, readiness: Readiness::Report(report), kept }
            }
            Self::SelfBind { command, .. } => {
                let (program, arguments) = command.split_first().context("there is no command")?;
                let mut process = Command::new(program);
                process.args(arguments);
                Launch { process, stdin, readiness: Readiness::Bound, kept: Vec::new() }
            }
        })
    }
}

/// Waits until a process has bound, and tells.
pub(super) async fn watch_bind(
    index: usize,
    process: Identity,
    address: SocketAddr,
    within: Duration,
    events: UnboundedSender<Event>,
) {
    let deadline = Instant::now() + within;
    while process.is_alive() {
        let bound = match discovery::bound_by(process.pid, address) {
            Err(NotBound::NotYet(_)) if Instant::now() < deadline => {
                sleep(INTERVAL).await;
                continue;
            }
            Ok(bound) => Ok(bound),
            Err(NotBound::Unfit(why)) => Err(format!("cannot be steered on {address}: {why}")),
            Err(why @ NotBound::NotYet(_)) => Err(format!(
                "should listen on {address} with SO_REUSEPORT within {within:?}, but {why}; give \
                 --listen what it binds, or more time with --bind-timeout"
            )),
        };
        let _ = events.send(Event::Bound(index, process, bound));
        return;
    }
}
