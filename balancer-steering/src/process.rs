//! Other processes: whether one is still the one we knew, and borrowing its socket.

use std::{
    collections::HashSet,
    io::{self, Read as _},
    os::fd::{FromRawFd as _, OwnedFd},
};

use procfs::process::{FDTarget, Process, Stat};
use rustix::{
    fs::fstat,
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open, test_kill_process_group},
};
use serde::Serialize;
use socket2::SockRef;

use crate::escape::printable;

/// A process, told from later ones of the same PID by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its PID; 0 for none.
    pub pid: u32,
    /// Clock ticks between boot and its start.
    #[serde(skip)]
    pub start: u64,
}

impl Identity {
    /// The process that has the PID now; `None` where there is none, or only its remains.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = stat(pid)?;
        let dead = matches!(stat.state, 'Z' | 'X' | 'x');
        (!dead).then_some(Self { pid, start: stat.starttime })
    }

    /// A child of ours that is not reaped yet, be it what remains of it.
    pub fn of_child(pid: u32) -> Option<Self> {
        Some(Self { pid, start: stat(pid)?.starttime })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        self.pid != 0 && Self::of(self.pid) == Some(self)
    }
}

/// The command name of a process, for messages.
pub fn command_name(pid: u32) -> Option<String> {
    Some(printable(&stat(pid)?.comm).into_owned())
}

fn stat(pid: u32) -> Option<Stat> {
    Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()
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

/// The inodes of the sockets that a process holds.
pub fn sockets(pid: u32) -> HashSet<u64> {
    let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    let fds = process.and_then(|process| process.fd().ok()).into_iter().flatten().flatten();
    let inode = |target| if let FDTarget::Socket(inode) = target { Some(inode) } else { None };
    fds.filter_map(|fd| inode(fd.target)).collect()
}

fn socket_fd(process: &Process, inode: u64) -> Option<i32> {
    process.fd().ok()?.flatten().find(|fd| fd.target == FDTarget::Socket(inode)).map(|fd| fd.fd)
}

/// What an epoll set watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The inode. (The descriptor that `fdinfo` shows too is the number it had in the process that
    /// added it, when it did.)
    pub inode: u64,
    /// The token that comes back with its events.
    pub token: u64,
}

/// The epoll sets of a process, by descriptor, and what each watches; nothing of a process that is
/// not ours to look at.
pub fn epoll_sets(process: &Process) -> Vec<(i32, Vec<Watched>)> {
    let fds = process.fd().into_iter().flatten().flatten();
    let sets =
        fds.filter(|fd| matches!(&fd.target, FDTarget::AnonInode(kind) if kind == "[eventpoll]"));
    sets.map(|set| (set.fd, watched(&fdinfo(process, set.fd)))).collect()
}

/// The processes that have one of these BPF maps or programs open, but this one.
pub fn bpf_users(maps: &[u32], programs: &[u32]) -> Vec<u32> {
    let is_meant = |line: &str| match line.split_once(":\t") {
        Some(("map_id", id)) => id.parse().is_ok_and(|id| maps.contains(&id)),
        Some(("prog_id", id)) => id.parse().is_ok_and(|id| programs.contains(&id)),
        _ => false,
    };
    let uses = |process: &Process| {
        let fds = process.fd().into_iter().flatten().flatten();
        let is_bpf = |target: &FDTarget| matches!(target, FDTarget::AnonInode(kind) if kind.starts_with("bpf"));
        let mut bpf = fds.filter(|fd| is_bpf(&fd.target));
        bpf.any(|fd| fdinfo(process, fd.fd).lines().any(is_meant))
    };
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let pids = processes.filter(uses).filter_map(|process| u32::try_from(process.pid).ok());
    pids.filter(|pid| *pid != std::process::id()).collect()
}

/// Empty where the descriptor is gone.
fn fdinfo(process: &Process, fd: i32) -> String {
    let mut text = String::new();
    if let Ok(mut file) = process.open_relative(format!("fdinfo/{fd}")) {
        let _ = file.read_to_string(&mut text);
    }
    text
}

/// What an epoll set watches, out of its `fdinfo`.
pub fn watched(fdinfo: &str) -> Vec<Watched> {
    fdinfo.lines().filter_map(watched_in).collect()
}

/// Reads `tfd:        5 events:       19 data:     7f10  pos:0 ino:1a2b sdev:8`.
fn watched_in(line: &str) -> Option<Watched> {
    let words: Vec<&str> = line.strip_prefix("tfd:")?.split_whitespace().collect();
    let inode = words.iter().find_map(|word| word.strip_prefix("ino:"))?;
    let token = words.iter().skip_while(|word| **word != "data:").nth(1)?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Watched { inode: hex(inode)?, token: hex(token)? })
}

/// Duplicates the socket with the given inode and cookie out of a process, to call `setsockopt` on
/// it. Close it soon: while we hold it, the socket outlives its worker. Linux 5.6.
///
/// # Errors
/// `NotFound` where the process is gone or no longer has the socket; `PermissionDenied` without
/// the right to trace the process.
pub fn duplicate_socket(owner: Identity, inode: u64, cookie: u64) -> io::Result<OwnedFd> {
    let pid = i32::try_from(owner.pid).map_err(|_| gone())?;
    let process = Process::new(pid).map_err(|_| gone())?;
    let fd = socket_fd(&process, inode).ok_or_else(gone)?;
    let socket = duplicate_fd(owner, fd, inode)?;
    if SockRef::from(&socket).cookie()? != cookie {
        return Err(gone());
    }
    Ok(socket)
}

/// As [`duplicate_socket`], where the process's descriptor is known, and the inode is proof enough.
///
/// # Errors
/// As [`duplicate_socket`].
pub fn duplicate_fd(owner: Identity, fd: i32, inode: u64) -> io::Result<OwnedFd> {
    let pidfd = handle(owner)?;
    let socket = pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty())?;
    if fstat(&socket)?.st_ino != inode {
        return Err(gone());
    }
    Ok(socket)
}

/// A handle on a process that stays with it whatever becomes of its PID. Linux 5.3.
///
/// # Errors
/// `NotFound` where it is gone.
pub fn handle(process: Identity) -> io::Result<OwnedFd> {
    let pidfd = pidfd_open(to_pid(process.pid).ok_or_else(gone)?, PidfdFlags::empty())?;
    // After pidfd_open, so that a process which took over the PID before is found out.
    if process.is_alive() { Ok(pidfd) } else { Err(gone()) }
}

/// Whether anybody of a process group runs: who has ended and was not reaped does not. Where there is
/// anybody, it walks through all of /proc.
pub fn is_group_alive(group: Pid) -> bool {
    if test_kill_process_group(group) == Err(Errno::SRCH) {
        return false;
    }
    let Ok(processes) = procfs::process::all_processes() else { return false };
    let mut stats = processes.filter_map(|process| process.ok()?.stat().ok());
    let id = group.as_raw_nonzero().get();
    stats.any(|stat| stat.pgrp == id && !matches!(stat.state, 'Z' | 'X'))
}

/// Keeps what is open in this process, but for standard input and output, from all that it starts: what
/// its own starter left open is not for them. What this program opens is kept from them anyway.
///
/// # Errors
/// If the kernel refuses, which it does before Linux 5.11.
pub fn keep_from_children() -> io::Result<()> {
    let (first, last, flags) = (3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: changes a flag of descriptors, and closes none. The C library has this call since 2021 only.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A PID as the kernel's calls take it; `None` for 0, which means something else there.
pub fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// Takes over the listening socket that the agent hands its worker as standard input.
///
/// # Errors
/// Returns an error if standard input is not a listening socket.
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_an_epoll_set_watches_is_read_from_its_fdinfo() {
        let fdinfo = "\
pos:\t0
flags:\t02
mnt_id:\t15
ino:\t1057
tfd:        4 events:       19 data:                4  pos:0 ino:904bd48 sdev:8
tfd:       12 events: 2000001d data: ffff7f31aa000010  pos:0 ino:1a sdev:8
";
        let expected = [
            Watched { inode: 0x904_bd48, token: 4 },
            Watched { inode: 0x1a, token: 0xffff_7f31_aa00_0010 },
        ];
        assert_eq!(watched(fdinfo), expected);
    }

    proptest! {
        #[test]
        fn no_fdinfo_makes_the_reader_panic(line: String) {
            watched(&format!("tfd: {line}\n{line}"));
        }
    }
}
