//! One worker process: started with its socket, watched until it ends.

use std::{
    os::fd::OwnedFd,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc::UnboundedSender,
    time::timeout,
};

use crate::process::Identity;

/// What a worker does, as far as its supervisor is concerned. The number is the worker's.
#[derive(Debug)]
pub enum Event {
    /// It accepts connections.
    Ready(usize),
    /// It printed a line.
    Line(String),
    /// It printed a line to standard error.
    Complaint(String),
    /// It is gone.
    Exited(usize, ExitStatus),
}

/// How long a worker that ended may have its output read.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A running worker process.
pub struct WorkerProcess {
    /// Who it is.
    pub identity: Identity,
    pidfd: OwnedFd,
}

impl WorkerProcess {
    /// The built-in worker.
    pub fn command(slot: u32, group: &str, bpffs: &Path, arguments: &[String]) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--bpffs").arg(bpffs);
        command.args(["worker", "--slot", &slot.to_string(), "--group", group]).args(arguments);
        command
    }

    /// Starts a worker with `socket` as its standard input, which is closed here: from now on the
    /// worker is the one that has it.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub fn start(
        index: usize,
        mut command: Command,
        socket: OwnedFd,
        events: &UnboundedSender<Event>,
    ) -> Result<Self> {
        let child = command
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the agent, which then stops its workers in order.
            .process_group(0)
            .spawn()
            .context("cannot start a worker process")?;
        let process = Self::watch(&child)?;
        tokio::spawn(follow(child, index, events.clone()));
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

/// Passes on what a worker prints and, at last, how it ended.
async fn follow(mut child: Child, index: usize, events: UnboundedSender<Event>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut announced = false;
    let lines = forward(stdout, |line| {
        let _ = events.send(Event::Line(line));
        if !announced {
            announced = true;
            // Its first line says that it accepts connections.
            let _ = events.send(Event::Ready(index));
        }
    });
    let complaints = forward(stderr, |line| {
        let _ = events.send(Event::Complaint(line));
    });
    let output = async { tokio::join!(lines, complaints) };
    let mut output = std::pin::pin!(output);
    let mut output_ended = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = output.as_mut(), if !output_ended => output_ended = true,
        }
    };
    // Its last words, unless somebody else keeps its pipes open.
    if !output_ended {
        let _ = timeout(LAST_WORDS, output).await;
    }
    match status {
        Ok(status) => {
            let _ = events.send(Event::Exited(index, status));
        }
        Err(error) => tracing::error!("cannot wait for worker {index}: {error}"),
    }
}

/// Takes a stream line by line to its end.
async fn forward(stream: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(String)) {
    let Some(stream) = stream else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        take(line);
    }
}
