//! One worker process: started with its socket, watched until it ends.

use std::{
    os::fd::OwnedFd,
    path::Path,
    process::{ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc::UnboundedSender,
};

use crate::process::Identity;

/// What a worker does, as far as its supervisor is concerned. The number is the worker's.
#[derive(Debug)]
pub enum Event {
    /// It accepts connections.
    Ready(usize),
    /// It printed a line.
    Line(String),
    /// It is gone.
    Exited(usize, ExitStatus),
}

/// A running worker process.
pub struct WorkerProcess {
    /// Who it is.
    pub identity: Identity,
    pidfd: OwnedFd,
}

impl WorkerProcess {
    /// Starts the built-in worker with `socket` as its standard input, which is closed here: from
    /// now on the worker is the one that has it.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub fn start(
        index: usize,
        socket: OwnedFd,
        slot: u32,
        group: &str,
        bpffs: &Path,
        events: &UnboundedSender<Event>,
    ) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("--bpffs")
            .arg(bpffs)
            .args(["worker", "--slot", &slot.to_string(), "--group", group])
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the agent, which then stops its workers in order.
            .process_group(0)
            .spawn()
            .context("cannot start a worker process")?;
        let process = Self::watch(&child)?;
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(forward(stdout, Some(index), events.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(forward(stderr, None, events.clone()));
        }
        tokio::spawn(wait(child, index, events.clone()));
        Ok(process)
    }

    fn watch(child: &Child) -> Result<Self> {
        let pid = child.id().context("a worker process ended at once")?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a PID is no PID")?;
        // Not reaped yet, so the PID is the child's.
        let pidfd =
            pidfd_open(raw, PidfdFlags::empty()).context("cannot watch a worker process")?;
        let identity = Identity::of(pid).context("a worker process ended at once")?;
        Ok(Self { identity, pidfd })
    }

    /// Sends a signal, to nobody if it is gone.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

/// Passes lines on; the first on standard output says that the worker is ready.
async fn forward(
    stream: impl AsyncRead + Unpin,
    mut announces: Option<usize>,
    events: UnboundedSender<Event>,
) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = events.send(Event::Line(line));
        if let Some(index) = announces.take() {
            let _ = events.send(Event::Ready(index));
        }
    }
}

async fn wait(mut child: Child, index: usize, events: UnboundedSender<Event>) {
    match child.wait().await {
        Ok(status) => {
            let _ = events.send(Event::Exited(index, status));
        }
        Err(error) => tracing::error!("cannot wait for worker {index}: {error}"),
    }
}
