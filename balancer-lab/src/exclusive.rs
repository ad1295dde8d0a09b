//! Waiting on a listening socket that other processes wait on too, so that a connection wakes one
//! of them and not all: `EPOLLEXCLUSIVE` (Linux 4.5), which tokio does not know.

use std::{io, os::fd::BorrowedFd};

use balancer_steering::process::epoll_sets;
use procfs::process::Process;
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    fs::fstat,
};
use tokio::net::TcpListener;

/// Makes the registration of a listener in tokio's epoll set exclusive: takes it out, and puts it
/// back with the same token and the flag, which cannot be set on an existing one.
///
/// # Errors
/// Returns an error if the registration is not found: this tokio does not use epoll.
pub fn make_exclusive(listener: &TcpListener) -> io::Result<()> {
    let inode = fstat(listener)?.st_ino;
    let sets = epoll_sets(&Process::myself().map_err(io::Error::other)?);
    let registration = sets.into_iter().find_map(|(set, watched)| {
        let watched = watched.into_iter().find(|watched| watched.inode == inode)?;
        Some((set, watched.token))
    });
    let (set, token) =
        registration.ok_or_else(|| io::Error::other("the listener is not in an epoll set"))?;
    // SAFETY: it was seen open just now, and nothing closes the event loop's own set meanwhile.
    let set = unsafe { BorrowedFd::borrow_raw(set) };
    epoll::delete(set, listener)?;
    // Edge-triggered, as tokio expects; the others of its flags do not go with the exclusive one.
    let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
    epoll::add(set, listener, EventData::new_u64(token), flags)?;
    Ok(())
}
