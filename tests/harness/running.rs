//! A running `balancer run` or `attach`: what it prints, and how it ends.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// How long anything may take. Never reached unless something is broken, on an emulated CPU either.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long a supervisor may take to end whose test has failed.
const GRACE: Duration = Duration::from_secs(10);

/// A supervisor and its workers.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    errors: Option<JoinHandle<String>>,
    address: SocketAddr,
    workers: Vec<u32>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// With which code.
    pub status: ExitStatus,
    /// All it printed.
    pub stdout: String,
    /// All it complained about.
    pub stderr: String,
}

impl Running {
    /// Starts `run`, and waits until it says where it listens.
    pub fn start(command: Command) -> Self {
        let mut running = Self::spawn(command);
        let line = running.wait_for("listening on ");
        let (_, rest) = line.split_once("listening on ").expect("an address");
        let (address, _) = rest.split_once(',').expect("an address");
        running.address = address.parse().expect("an address");
        running.workers = running.seen.iter().filter_map(|line| worker_pid(line)).collect();
        running
    }

    /// Starts `attach`, and waits until it steers.
    pub fn attach(command: Command) -> Self {
        let mut running = Self::spawn(command);
        running.wait_for("steering ");
        running
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("balancer starts");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let mut stderr = child.stderr.take().expect("a pipe");
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let errors = Some(errors);
        Self { child, lines, seen: Vec::new(), errors, address, workers: vec![] }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The workers of the first start, as they became ready.
    pub fn workers(&self) -> &[u32] {
        &self.workers
    }

    /// The supervisor's PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `text`, from here on.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line with {text:?}: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    let errors = self.errors.take().and_then(|errors| errors.join().ok());
                    panic!("ended without {text:?}: {:#?} {errors:?}", self.seen)
                }
            }
        }
    }

    /// A line that contains `text`, whether it was seen already or not.
    pub fn line(&mut self, text: &str) -> String {
        let seen = self.seen.iter().find(|line| line.contains(text)).cloned();
        seen.unwrap_or_else(|| self.wait_for(text))
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits until it has ended.
    pub fn ended(mut self) -> Ended {
        let process = watch(self.pid());
        wait_until_gone(&process, "balancer");
        let status = self.child.wait().expect("a child");
        let rest: Vec<String> = self.lines.iter().collect();
        self.seen.extend(rest);
        let stderr = self.errors.take().and_then(|e| e.join().ok()).unwrap_or_default();
        Ended { status, stdout: self.seen.join("\n"), stderr }
    }

    /// Kills it: it has no time to say good-bye.
    pub fn kill(self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    /// Stops it in order, as Ctrl-C does.
    pub fn stop(self) -> Ended {
        self.signal(Signal::INT);
        self.ended()
    }
}

impl Drop for Running {
    /// A test that failed leaves nobody behind: the supervisor stops, and with it workers that were
    /// started since; those that the test has stopped are killed.
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        let _ = kill_process(to_pid(self.pid()), Signal::INT);
        for pid in &self.workers {
            let _ = kill_process(to_pid(*pid), Signal::KILL);
        }
        if !ends_within(&watch(self.pid()), GRACE) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn worker_pid(line: &str) -> Option<u32> {
    line.strip_prefix("Server with PID: [")?.strip_suffix("] is running")?.parse().ok()
}

/// Nobody of those before is among these.
///
/// # Panics
/// Where somebody is, or some are missing.
pub fn all_new(before: &[u32], after: &[u32]) {
    assert_eq!(before.len(), after.len());
    assert!(after.iter().all(|pid| !before.contains(pid)), "{before:?}, then {after:?}");
}

/// A handle on a process that stays with it whatever becomes of its PID.
pub fn watch(pid: u32) -> OwnedFd {
    pidfd_open(to_pid(pid), PidfdFlags::empty()).expect("a process")
}

/// Waits until a process has ended.
pub fn wait_until_gone(process: &OwnedFd, who: &str) {
    assert!(ends_within(process, PATIENCE), "{who} does not end");
}

fn ends_within(process: &OwnedFd, time: Duration) -> bool {
    let timeout = time.try_into().expect("a timeout");
    let mut poll_fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    poll(&mut poll_fds, Some(&timeout)).expect("poll") == 1
}

/// Looks again and again until it holds.
pub fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    assert!(try_until(holds), "waited in vain for {what}");
}

/// Looks again and again until it holds; false if it never does.
pub fn try_until(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Sends a process a signal.
pub fn send(pid: u32, signal: Signal) {
    kill_process(to_pid(pid), signal).expect("a process");
}

fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a PID")).expect("a PID")
}
