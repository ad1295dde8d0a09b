//! What a worker runs, and how it comes by its socket.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer_steering::group::GroupIdentity;

use super::{
    binary::Binary,
    child::Launch,
    notify::NotifySocket,
    readiness::{Readiness, Sign},
    seats::Seat,
};
use crate::{handover::Handover, user::User};

/// The environment variable with the worker's number.
pub(super) const WORKER: &str = "BALANCER_WORKER";

/// What a worker runs.
#[derive(Clone, Debug)]
pub enum Job {
    /// The built-in server, with more arguments; its socket is its standard input.
    BuiltIn(Vec<String>),
    /// Somebody else's program.
    Command {
        /// What to run.
        command: Vec<OsString>,
        /// Whether it binds for itself, rather than being handed its socket.
        binds: bool,
        /// Whether it says by `sd_notify` that it is ready.
        notifies: bool,
    },
}

/// What a start is to be like.
pub(super) struct Terms<'a> {
    /// The number of the worker: the same for all that are it, one after another.
    pub index: usize,
    /// The group's name.
    pub group: &'a str,
    /// Where it is pinned.
    pub bpffs: &'a PathBuf,
    /// What the built-in server is.
    pub binary: &'a Binary,
    /// Where a command binds that does so for itself.
    pub place: Option<GroupIdentity>,
    /// As whom it runs, if not as we do.
    pub user: Option<&'a User>,
    /// How long it may take to get ready.
    pub within: Duration,
    /// How long it must live before it counts as ready, where nothing better is known.
    pub settle: Duration,
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
        matches!(self, Self::Command { binds: true, .. })
    }

    /// How many descriptors a process of it takes beside those that every worker takes: the socket where
    /// it notifies.
    pub fn descriptors(&self) -> u64 {
        match self {
            Self::BuiltIn(_) => 0,
            Self::Command { notifies, .. } => u64::from(*notifies),
        }
    }

    /// How to start it, with the seat that it needs unless it [binds](Self::binds).
    ///
    /// # Errors
    /// Returns an error if no pipe or socket can be had.
    pub(super) fn launch(&self, terms: &Terms<'_>, seat: Option<Seat>) -> Result<Launch> {
        let slot = seat.as_ref().map_or(0, |seat| seat.slot);
        let (socket, load) = seat.map(|seat| (seat.socket, seat.report)).unzip();
        let readiness =
            |sign, notifies, settle| Readiness { sign, notifies, within: terms.within, settle };
        let (mut launch, notifies) = match self {
            Self::BuiltIn(arguments) => {
                let mut process = terms.binary.command();
                process.arg("--bpffs").arg(terms.bpffs);
                process
                    .args(["worker", "--slot", &slot.to_string(), "--group", terms.group])
                    .args(arguments);
                // It becomes that user itself, once it has what is root's.
                if let Some(user) = terms.user {
                    process.args(["--user", user.name()]);
                }
                let readiness = readiness(Sign::FirstLine, false, Duration::ZERO);
                let stdin = socket.map_or_else(Stdio::null, Stdio::from);
                (Launch { process, stdin, readiness, notify: None, handover: None }, false)
            }
            Self::Command { command, binds: false, notifies } => {
                let group = terms.group.to_owned();
                let handover =
                    socket.map(|socket| Handover { socket, load: load.flatten(), group });
                let settle = if *notifies { Duration::ZERO } else { terms.settle };
                let readiness = readiness(Sign::Runs, *notifies, settle);
                let (process, stdin) = (as_typed(command, terms.index)?, Stdio::null());
                (Launch { process, stdin, readiness, notify: None, handover }, *notifies)
            }
            Self::Command { command, binds: true, notifies } => {
                let process = as_typed(command, terms.index)?;
                let place = terms.place.context("workers that share a socket bind none")?;
                let readiness = readiness(Sign::Bound(place), *notifies, Duration::ZERO);
                let stdin = Stdio::null();
                (Launch { process, stdin, readiness, notify: None, handover: None }, *notifies)
            }
        };
        if let Some(user) = terms.user.filter(|_| self.is_foreign()) {
            user.run(&mut launch.process);
        }
        launch.process.env(WORKER, terms.index.to_string());
        // Ours, where systemd started us, is not for workers.
        launch.process.env_remove("NOTIFY_SOCKET");
        if notifies {
            let (socket, name) = NotifySocket::open().context("cannot open a notify socket")?;
            launch.process.env("NOTIFY_SOCKET", name);
            launch.notify = Some(socket);
        }
        Ok(launch)
    }
}

/// With the worker's number in place of `{worker}` in its arguments.
fn as_typed(command: &[OsString], index: usize) -> Result<Command> {
    let (program, arguments) = command.split_first().context("there is no command")?;
    let mut process = Command::new(program);
    process.args(arguments.iter().map(|argument| numbered(argument, index)));
    Ok(process)
}

fn numbered(argument: &OsString, index: usize) -> OsString {
    // What is not UTF-8 has no place for a number that anybody typed.
    argument.to_str().map_or_else(
        || argument.clone(),
        |text| text.replace("{worker}", &index.to_string()).into(),
    )
}
