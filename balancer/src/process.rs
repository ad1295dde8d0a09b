//! Other processes: whether one is still the one we knew, and borrowing its socket.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

use procfs::process::{FDInfo, FDTarget, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

/// A process, told from later ones of the same PID by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its PID; 0 for none.
    pub pid: u32,
    /// Clock ticks between boot and its start.
    pub start: u64,
}

impl Identity {
    /// The process that has the PID now; `None` where there is none, or only its remains.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
        let dead = matches!(stat.state, 'Z' | 'X' | 'x');
        (!dead).then_some(Self { pid, start: stat.starttime })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        self.pid != 0 && Self::of(self.pid) == Some(self)
    }
}

/// The command name of a process, for messages.
pub fn command_name(pid: u32) -> Option<String> {
    Some(Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?.comm)
}

/// The PIDs that hold a socket, found by its inode. Processes of other users are seen by root only.
pub fn socket_holders(inode: u64) -> Vec<u32> {
    let Ok(processes) = procfs::process::all_processes() else { return Vec::new() };
    processes
        .flatten()
        .filter(|process| socket_fd(process, inode).is_some())
        .filter_map(|process| u32::try_from(process.pid).ok())
        .collect()
}

fn socket_fd(process: &Process, inode: u64) -> Option<i32> {
    process.fd().ok()?.flatten().find(|fd| fd.target == FDTarget::Socket(inode)).map(|fd| fd.fd)
}

/// A descriptor in an epoll set of the process that holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The epoll set.
    pub epoll: i32,
    /// What is polled.
    pub fd: i32,
    /// The token that comes back with its events.
    pub data: u64,
}

/// All that a process polls, as `/proc/PID/fdinfo` tells; nothing of a process that is not ours to
/// look at.
pub fn polled_by(process: &Process) -> Vec<Polled> {
    let Ok(fds) = process.fd() else { return Vec::new() };
    let sets = fds
        .flatten()
        .filter(|fd| matches!(&fd.target, FDTarget::AnonInode(kind) if kind.contains("eventpoll")));
    let lines = |set: FDInfo| {
        let path = format!("/proc/{}/fdinfo/{}", process.pid, set.fd);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| polled_in(set.fd, line)).collect::<Vec<_>>()
    };
    sets.flat_map(lines).collect()
}

/// Reads `tfd:        5 events:       19 data: 7f.. pos:0 ino:1a2b sdev:8`.
fn polled_in(epoll: i32, line: &str) -> Option<Polled> {
    let mut words = line.strip_prefix("tfd:")?.split_whitespace();
    let fd = words.next()?.parse().ok()?;
    let data = words.skip_while(|word| *word != "data:").nth(1)?;
    Some(Polled { epoll, fd, data: u64::from_str_radix(data, 16).ok()? })
}

/// Duplicates the socket with the given inode and cookie out of a process, to call `setsockopt` on
/// it. Close it soon: while we hold it, the socket outlives its worker. Linux 5.6.
///
/// # Errors
/// `NotFound` where the process is gone or no longer has the socket; `PermissionDenied` without
/// the right to trace the process.
pub fn borrow_socket(owner: Identity, inode: u64, cookie: u64) -> io::Result<OwnedFd> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let pid = i32::try_from(owner.pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    // After pidfd_open, so that a process which took over the PID before is found out.
    if !owner.is_alive() {
        return Err(gone());
    }
    let process = Process::new(pid.as_raw_nonzero().get()).map_err(io::Error::other)?;
    let fd = socket_fd(&process, inode).ok_or_else(gone)?;
    let socket = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())?;
    if SockRef::from(&socket).cookie()? != cookie {
        return Err(gone());
    }
    Ok(socket)
}

/// Takes over the listening socket that the agent hands its worker as standard input.
///
/// # Errors
/// Where standard input is not a listening socket.
pub fn inherited_listener() -> io::Result<std::net::TcpListener> {
    // SAFETY: nothing else in a worker uses standard input, so this is its one owner.
    let listener = unsafe { std::net::TcpListener::from(OwnedFd::from_raw_fd(0)) };
    if !SockRef::from(&listener).is_listener()? {
        return Err(io::Error::other("standard input is not a listening socket"));
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_polled_is_read_from_fdinfo() {
        let line = "tfd:        9 events: 80000019 data:     7f00000010  pos:0 ino:1a2b sdev:8";
        let polled = Polled { epoll: 4, fd: 9, data: 0x7f_0000_0010 };
        assert_eq!(polled_in(4, line), Some(polled));
        for other in ["", "pos:\t0", "tfd:", "tfd: 9 events: 19", "tfd: x events: 1 data: 1"] {
            assert_eq!(polled_in(4, other), None, "{other}");
        }
    }
}
