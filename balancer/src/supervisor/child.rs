//! One worker process: started, watched until it ends.

use std::{
    io::ErrorKind,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
    thread::sched_setaffinity,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, Interest, unix::AsyncFd},
    net::unix::pipe,
    process::{Child, Command},
    sync::mpsc::UnboundedSender,
    time::timeout,
};

use crate::{discovery::Bound, handover, machine, process::Identity};

/// What a worker does, as far as its supervisor is concerned. The number is the worker's.
#[derive(Debug)]
pub enum Event {
    /// It accepts connections.
    Ready(usize),
    /// It has bound for itself; or why not.
    Bound(usize, Identity, Result<Bound, String>),
    /// It could not be started, and why.
    Unstartable(usize, String),
    /// It printed a line.
    Line(usize, String),
    /// It printed a line to standard error.
    Complaint(usize, String),
    /// It is gone.
    Exited(usize, ExitStatus),
}

/// How to start a worker.
pub struct Launch {
    /// What to start.
    pub process: Command,
    /// Its standard input.
    pub stdin: Stdio,
    /// How it is known to accept connections.
    pub readiness: Readiness,
    /// What it inherits, to be closed here once it runs.
    pub kept: Vec<OwnedFd>,
}

/// How a worker is known to accept connections.
pub enum Readiness {
    /// By its first line.
    FirstLine,
    /// By an empty report: its socket listens already.
    Report(pipe::Receiver),
    /// By having bound.
    Bound,
}

/// How long a worker that ended may have its output read.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Where a line that does not end is broken.
const LONGEST_LINE: u64 = 64 * 1024;

/// A running worker process, the leader of a process group.
pub struct WorkerProcess {
    /// Who it is.
    pub identity: Identity,
    pid: Pid,
    /// Its PID may be another's by now.
    reaped: Arc<AtomicBool>,
}

impl WorkerProcess {
    /// Starts a worker, on one CPU only if that is given. A socket that is its standard input is closed here: from now on the worker
    /// is the one that has it.
    ///
    /// # Errors
    /// Where the process cannot be started.
    pub fn start(
        index: usize,
        launch: Launch,
        cpu: Option<usize>,
        events: &UnboundedSender<Event>,
    ) -> Result<Self> {
        let Launch { mut process, stdin, readiness, kept } = launch;
        if let Some(cpu) = cpu {
            let only = machine::set_of(cpu);
            // SAFETY: a system call between fork and exec, and nothing allocated.
            unsafe { process.pre_exec(move || Ok(sched_setaffinity(None, &only)?)) };
        }
        let child = process
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the agent, which then stops its workers in order.
            .process_group(0)
            .spawn()
            .map_err(|error| match cpu {
                Some(cpu) if error.kind() == ErrorKind::InvalidInput => anyhow!(
                    "cannot pin worker {index} to CPU {cpu}, which this process may not use any more; \
                     start anew, or without --pin"
                ),
                _ => anyhow!(handover::cannot_run(process.as_std().get_program(), &error)),
            })?;
        drop(kept);
        let pid = child.id().context("a worker process ended at once")?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a PID is no PID")?;
        // Not reaped yet, so the PID is the child's.
        let pidfd =
            pidfd_open(raw, PidfdFlags::empty()).context("cannot watch a worker process")?;
        // SAFETY: an `OwnedFd` always gives the descriptor that it keeps open.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .context("cannot watch a worker process")?;
        let identity = Identity::of_child(pid).context("a worker process is not in /proc")?;
        let reaped = Arc::new(AtomicBool::new(false));
        let process = Self { identity, pid: raw, reaped: Arc::clone(&reaped) };
        let ended = Ended { child, pidfd, pid: raw, reaped };
        tokio::spawn(follow(ended, index, readiness, events.clone()));
        Ok(process)
    }

    /// Sends it and what it has started a signal, as a terminal would: a command may be a shell that
    /// waits for the server.
    pub fn signal(&self, signal: Signal) {
        if !self.reaped.load(Ordering::Relaxed) {
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

/// A child, and what its end takes with it.
struct Ended {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
    pid: Pid,
    reaped: Arc<AtomicBool>,
}

impl Ended {
    /// Waits for its end. Processes that it leaves behind would keep its socket: they are asked to
    /// end too, while its PID is still known to be theirs.
    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let _ = self.pidfd.readable().await?;
        let _ = kill_process_group(self.pid, Signal::TERM);
        self.reaped.store(true, Ordering::Relaxed);
        self.child.wait().await
    }
}

/// Passes on what a worker prints and, at last, how it ended.
async fn follow(
    mut process: Ended,
    index: usize,
    readiness: Readiness,
    events: UnboundedSender<Event>,
) {
    let (stdout, stderr) = (process.child.stdout.take(), process.child.stderr.take());
    let mut by_first_line = matches!(readiness, Readiness::FirstLine);
    let lines = forward(stdout, |line| {
        let _ = events.send(Event::Line(index, line));
        if std::mem::take(&mut by_first_line) {
            let _ = events.send(Event::Ready(index));
        }
    });
    let complaints = forward(stderr, |line| {
        let _ = events.send(Event::Complaint(index, line));
    });
    let report = async {
        let Readiness::Report(mut report) = readiness else { return };
        let mut why = String::new();
        let _ = report.read_to_string(&mut why).await;
        let _ = events.send(match why.is_empty() {
            true => Event::Ready(index),
            false => Event::Unstartable(index, why),
        });
    };
    let output = async { tokio::join!(lines, complaints, report) };
    let mut output = std::pin::pin!(output);
    let mut output_ended = false;
    let status = loop {
        tokio::select! {
            status = process.wait() => break status,
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

/// Takes a stream line by line to its end, whatever is in it: who stopped reading would end the
/// writer by SIGPIPE.
async fn forward(stream: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(String)) {
    let Some(stream) = stream else { return };
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut stream).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
        take(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
        line.clear();
    }
}
