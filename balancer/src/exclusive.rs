//! Waiting on a listening socket that other processes wait on too, so that a connection wakes one
//! of them and not all: `EPOLLEXCLUSIVE` (Linux 4.5), which tokio does not know.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use procfs::process::Process;
use rustix::event::epoll::{self, EventData, EventFlags};
use tokio::net::TcpListener;

use crate::process::polled_by;

/// Makes the registration of a listener in tokio's epoll set exclusive: takes it out, and puts it
/// back with the same token and the flag, which cannot be set on an existing one.
///
/// # Errors
/// Where the registration is not found: this tokio does not use epoll, or not in this process.
pub fn make_exclusive(listener: &TcpListener) -> io::Result<()> {
    let fd = listener.as_raw_fd();
    let this = Process::myself().map_err(io::Error::other)?;
    let polled = polled_by(&this).into_iter().find(|polled| polled.fd == fd);
    let polled = polled.ok_or_else(|| io::Error::other("the listener is in no epoll set"))?;
    // SAFETY: it was seen open just now, and nothing closes the event loop's own set meanwhile.
    let epoll = unsafe { BorrowedFd::borrow_raw(polled.epoll) };
    epoll::delete(epoll, listener)?;
    // Edge-triggered, as tokio expects; the others of its flags do not go with the exclusive one.
    let flags = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
    epoll::add(epoll, listener, EventData::new_u64(polled.data), flags)?;
    Ok(())
}
