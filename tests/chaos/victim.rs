//! A worker that is stopped, looked into, killed.

use std::{collections::HashSet, fs, time::Instant};

use harness::running::{try_until, wait_until_gone};
use procfs::{
    net::TcpState,
    process::{FDTarget, Process},
};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
};
use socket2::SockRef;

/// A process that stands still.
pub struct Victim {
    pid: u32,
    process: Process,
}

impl Victim {
    /// Stops it and waits until it stands; none where it has just ended.
    pub fn stop(pid: u32) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let raw = Pid::from_raw(process.pid)?;
        kill_process(raw, Signal::STOP).ok()?;
        let mut state = None;
        let stands = try_until(|| {
            state = process.stat().ok().map(|stat| stat.state);
            !matches!(state, Some('R' | 'S' | 'D'))
        });
        (stands && state == Some('T')).then_some(Self { pid, process })
    }

    /// The client's port of each connection that it has accepted and not closed. Exact: it was
    /// stopped between two system calls.
    pub fn accepted(&self) -> HashSet<u16> {
        let Some(raw) = Pid::from_raw(self.process.pid) else { return HashSet::new() };
        let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else { return HashSet::new() };
        let peer = |fd| {
            let socket = pidfd_getfd(&handle, fd, PidfdGetfdFlags::empty()).ok()?;
            Some(SockRef::from(&socket).peer_addr().ok()?.as_socket()?.port())
        };
        self.sockets().filter_map(|(fd, _)| peer(fd)).collect()
    }

    /// How many connections wait to be accepted by it.
    pub fn queued(&self) -> usize {
        let own: HashSet<u64> = self.sockets().map(|(_, inode)| inode).collect();
        let entries = self.process.tcp().into_iter().flatten();
        let listener = entries.filter(|e| e.state == TcpState::Listen && own.contains(&e.inode));
        listener.map(|entry| entry.rx_queue as usize).sum()
    }

    fn sockets(&self) -> impl Iterator<Item = (i32, u64)> {
        self.process.fd().into_iter().flatten().flatten().filter_map(|fd| match fd.target {
            FDTarget::Socket(inode) => Some((fd.fd, inode)),
            _ => None,
        })
    }

    /// Lets it go on; false where it was killed meanwhile.
    pub fn go_on(self) -> bool {
        lives(self.pid) && self.signal(Signal::CONT)
    }

    /// Kills it, and waits until its sockets are closed: from when until when that took. None where
    /// somebody else has killed it.
    pub fn kill(self) -> Option<(Instant, Instant)> {
        let process = pidfd_open(Pid::from_raw(self.process.pid)?, PidfdFlags::empty()).ok()?;
        let begun = Instant::now();
        self.signal(Signal::KILL).then(|| wait_until_gone(&process, "a worker"))?;
        Some((begun, Instant::now()))
    }

    fn signal(&self, signal: Signal) -> bool {
        Pid::from_raw(self.process.pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

/// Whether a process is there, and more than what remains of one.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
