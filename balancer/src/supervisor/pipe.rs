//! The pipes that workers print to. A worker's end is open for reading too, so that its pipe is never
//! without a reader: where the agent is killed, printing is no error to the worker (EPIPE, or the end
//! by SIGPIPE), and the agent that takes over reads what was printed meanwhile. Only a worker that
//! prints more than fits in that time has to wait.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use balancer_steering::process::Identity;
use procfs::process::{FDPermissions, FDTarget, Process};
use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

/// How much fits: what the kernel lets everybody have (`fs.pipe-max-size`).
const ROOM: usize = 1 << 20;

/// A pipe: the worker's end, and ours.
///
/// # Errors
/// Returns an error if none can be had.
pub fn open() -> io::Result<(OwnedFd, Receiver)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // Less room is no reason to do without.
    let _ = fcntl_setpipe_size(&writer, ROOM);
    let place = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let both_ways = rustix::fs::open(place, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok((both_ways, Receiver::from_owned_fd(reader)?))
}

/// Our end of such a pipe, of an agent that is gone. None where a worker prints elsewhere: to a
/// pipe that somebody else reads, it has one end only.
pub fn reopen(worker: Identity, descriptor: i32) -> Option<Receiver> {
    let process = Process::new(i32::try_from(worker.pid).ok()?).ok()?;
    let end = process.fd_from_fd(descriptor).ok()?;
    let both = FDPermissions::READ | FDPermissions::WRITE;
    let is_ours = matches!(end.target, FDTarget::Pipe(_)) && end.mode().contains(both);
    let place = format!("/proc/{}/fd/{descriptor}", worker.pid);
    is_ours.then(|| OpenOptions::new().open_receiver(place).ok())?
}
