//! One worker process: started or taken over, watched until it ends.

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, getpgid, kill_process_group, pidfd_open},
    thread::sched_setaffinity,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, Interest, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::UnboundedSender},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    ending::StopSignal,
    events::{Event, Teller, Told},
    notify::NotifySocket,
    pipe,
    readiness::{Readiness, Said},
};
use balancer_steering::{
    affinity,
    process::{self, Identity, handle, to_pid},
};

use crate::{
    descriptors,
    handover::{self, Handover},
    output::{self, Stream},
};

/// How to start a worker.
pub struct Launch {
    /// What to start.
    pub process: Command,
    /// Its standard input.
    pub stdin: Stdio,
    /// How it is known to accept connections.
    pub readiness: Readiness,
    /// Where it may say so.
    pub notify: Option<NotifySocket>,
    /// What it is handed.
    pub handover: Option<Handover>,
}

/// How long a worker that ended may have its output read.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How many lines of a worker may wait to be heard. One that prints faster has to wait itself: else
/// its lines would fill the memory, and what the others do would be heard late.
const LINES: usize = 256;

/// How often those are counted that a worker has left behind.
const INTERVAL: Duration = Duration::from_millis(50);

/// Where a line that does not end is broken.
const LONGEST_LINE: u64 = 64 * 1024;

/// A running worker process, the leader of a process group.
pub struct WorkerProcess {
    /// Who it is.
    pub identity: Identity,
    /// Of its process group.
    pid: Pid,
    state: Arc<State>,
}

/// What its end depends on.
#[derive(Default)]
struct State {
    /// It was told to end.
    told: AtomicBool,
    /// Its PID may be another's by now.
    reaped: AtomicBool,
}

impl WorkerProcess {
    /// Starts a worker, on one CPU only if that is given. A socket that is its standard input is closed here:
    /// from now on only the worker has it.
    ///
    /// # Errors
    /// Returns an error if the process cannot be started.
    pub fn start(
        index: usize,
        launch: Launch,
        cpu: Option<usize>,
        events: &UnboundedSender<Told>,
    ) -> Result<Self> {
        let Launch { mut process, stdin, readiness, notify, handover } = launch;
        if let Some(cpu) = cpu {
            let only = affinity::set_of(cpu);
            // SAFETY: a system call between fork and exec, and nothing allocated.
            unsafe { process.pre_exec(move || Ok(sched_setaffinity(None, &only)?)) };
        }
        descriptors::restore(&mut process);
        let opened = pipe::open().and_then(|out| Ok((out, pipe::open()?)));
        let ((out, stdout), (err, stderr)) = opened.context("cannot open a pipe for a worker")?;
        process.stdin(stdin).stdout(out).stderr(err);
        if let Some(handover) = handover {
            handover.prepare(&mut process).context("cannot prepare what a command is handed")?;
        }
        // Ctrl-C in a terminal is for the agent, which then stops its workers in order.
        let mut child = process.process_group(0).spawn().map_err(|error| {
            match (cpu, error.raw_os_error().map(Errno::from_raw_os_error)) {
                (Some(cpu), Some(Errno::INVAL)) => anyhow!(
                    "cannot pin worker {index} to CPU {cpu}, which this process may not use any more; \
                     start anew, or without --pin"
                ),
                (_, Some(Errno::MFILE | Errno::NFILE)) => anyhow!("cannot start a process: {error}"),
                _ => anyhow!(handover::cannot_run(process.get_program(), &error)),
            }
        })?;
        // Closes what only the worker is to have.
        drop(process);
        let (identity, pid, pidfd) = match open_child(&child) {
            Ok(opened) => opened,
            Err(error) => {
                // Nobody would know of it any more.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let state = Arc::new(State::default());
        let ended = Ended { child: Some(child), pidfd, pid, state: Arc::clone(&state) };
        let teller = Teller { index, process: identity, sender: events.clone() };
        tokio::spawn(follow(ended, teller, Some(stdout), Some(stderr), Some(readiness), notify));
        Ok(Self { identity, pid, state })
    }

    /// Watches a worker that an agent has started which is gone. It is no child of this process; what
    /// it prints is read again, if nobody else does.
    ///
    /// # Errors
    /// Returns an error if it is gone too.
    pub fn take_over(
        index: usize,
        worker: Identity,
        events: &UnboundedSender<Told>,
    ) -> Result<Self> {
        // Of a command that is a wrapper, a child of the process that was started may serve.
        let raw = getpgid(to_pid(worker.pid)).context("cannot find a worker's process group")?;
        let leader = Identity::of(raw.as_raw_nonzero().get().unsigned_abs());
        let identity = leader.unwrap_or(worker);
        let pidfd = handle(identity).context("cannot watch a worker process")?;
        let (stdout, stderr) = (pipe::reopen(identity, 1), pipe::reopen(identity, 2));
        let state = Arc::new(State::default());
        let ended =
            Ended { child: None, pidfd: wait_on(pidfd)?, pid: raw, state: Arc::clone(&state) };
        let teller = Teller { index, process: identity, sender: events.clone() };
        tokio::spawn(follow(ended, teller, stdout, stderr, None, None));
        Ok(Self { identity, pid: raw, state })
    }

    /// Asks it and what it has started to end.
    pub fn ask_to_end(&self, StopSignal(signal): StopSignal) {
        self.state.told.store(true, Ordering::Relaxed);
        self.signal(signal);
    }

    /// Sends it and what it has started a signal, as a terminal would: a command may be a shell that
    /// waits for the server.
    pub fn signal(&self, signal: Signal) {
        if !self.state.reaped.load(Ordering::Relaxed) {
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

/// Who a child is that is not reaped yet, so that its PID is its own; and a handle on it.
fn open_child(child: &Child) -> Result<(Identity, Pid, AsyncFd<OwnedFd>)> {
    let pid = to_pid(child.id()).context("a PID is no PID")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch a worker process")?;
    let identity = Identity::of_child(child.id()).context("a worker process is not in /proc")?;
    Ok((identity, pid, wait_on(pidfd)?))
}

fn wait_on(pidfd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the descriptor that it keeps open.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
        .context("cannot watch a worker process")
}

/// A process, and what its end takes with it.
struct Ended {
    /// None where it is not ours to reap.
    child: Option<Child>,
    pidfd: AsyncFd<OwnedFd>,
    pid: Pid,
    state: Arc<State>,
}

impl Ended {
    /// Waits for its end. Of one that was told to end, and so were the processes that it has started,
    /// that is when the last of them has finished: the server may be one of those. Else they would
    /// keep its socket, and are asked to end too. Its PID is known to be theirs until it is reaped,
    /// and as long as one of them lives.
    async fn wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let _ = self.pidfd.readable().await?;
        let (group, told) = (self.pid, self.state.told.load(Ordering::Relaxed));
        if !told {
            let _ = kill_process_group(group, Signal::TERM);
            self.state.reaped.store(true, Ordering::Relaxed);
        }
        let status = match &mut self.child {
            // It has ended, so this only reaps it.
            Some(child) => Some(child.wait()?),
            None => None,
        };
        let rest = move || process::is_group_alive(group);
        while told && spawn_blocking(rest).await.unwrap_or_default() {
            sleep(INTERVAL).await;
        }
        self.state.reaped.store(true, Ordering::Relaxed);
        Ok(status)
    }
}

/// Passes on what a worker prints and, at last, how it ended.
async fn follow(
    mut process: Ended,
    teller: Teller,
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    readiness: Option<Readiness>,
    notify: Option<NotifySocket>,
) {
    let said = Said::default();
    let room = Arc::new(Semaphore::new(LINES));
    let lines = forward(stdout, &room, Stream::Out, |line, room| {
        teller.tell(Event::Line(line, room));
        said.line.notify_one();
    });
    let complaints = forward(stderr, &room, Stream::Err, |line, room| {
        teller.tell(Event::Complaint(line, room));
    });
    let ready = async {
        let Some(readiness) = readiness else { return };
        teller.tell(readiness.wait(teller.process, &said).await);
    };
    let output = async { tokio::join!(lines, complaints, ready) };
    let mut output = std::pin::pin!(output);
    let mut output_ended = false;
    let notified = async {
        if let Some(socket) = &notify {
            socket.listen(teller.process.pid, &said.ready).await;
        }
        std::future::pending::<()>().await;
    };
    let mut notified = std::pin::pin!(notified);
    let status = loop {
        tokio::select! {
            status = process.wait() => break status,
            _ = output.as_mut(), if !output_ended => output_ended = true,
            () = notified.as_mut() => {}
        }
    };
    // Its last words, unless somebody else keeps its pipes open.
    if !output_ended {
        let _ = timeout(LAST_WORDS, output).await;
    }
    match status {
        Ok(status) => teller.tell(Event::Exited(status)),
        Err(error) => tracing::error!("cannot wait for worker {}: {error}", teller.index),
    }
}

/// Takes a stream line by line to its end, whatever is in it: who stopped reading would end the
/// writer by SIGPIPE.
async fn forward(
    stream: Option<impl AsyncRead + Unpin>,
    room: &Arc<Semaphore>,
    printed: Stream,
    mut take: impl FnMut(String, OwnedSemaphorePermit),
) {
    let Some(stream) = stream else { return };
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut stream).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
        let Ok(room) = Arc::clone(room).acquire_owned().await else { return };
        output::room(printed).await;
        take(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned(), room);
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc::unbounded_channel, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn a_worker_that_prints_faster_than_it_is_heard_waits() {
        let said = "a line\n".repeat(10 * LINES);
        let room = Arc::new(Semaphore::new(LINES));
        let (sender, mut heard) = unbounded_channel();
        let printing = tokio::spawn(async move {
            let said = said.as_bytes();
            forward(Some(said), &room, Stream::Out, |line, room| drop(sender.send((line, room))))
                .await;
        });
        for _ in 0..100 {
            yield_now().await;
        }
        assert_eq!(heard.len(), LINES);
        let mut count = 0;
        while let Some((line, _room)) = heard.recv().await {
            assert_eq!(line, "a line");
            count += 1;
        }
        assert_eq!(count, 10 * LINES);
        printing.await.unwrap();
    }
}
