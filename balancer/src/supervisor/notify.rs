//! Where a command says that it is ready: the socket of `sd_notify(3)`.

use std::{ffi::OsString, io, mem::MaybeUninit, os::fd::OwnedFd};

use balancer_steering::process::to_pid;
use rustix::{
    io::{Errno, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
        SocketFlags, SocketType, bind, getsockname, recvmsg, socket_with, sockopt,
    },
    process::{geteuid, getpgid},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

/// A datagram longer than this is none of those that matter here.
const LONGEST: usize = 4096;

/// A socket of one worker. Its name is one that the kernel made up, in this network namespace.
#[derive(Debug)]
pub struct NotifySocket(AsyncFd<OwnedFd>);

impl NotifySocket {
    /// Opens one; and what the worker is to find in `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// Returns an error if none can be had.
    pub fn open() -> io::Result<(Self, OsString)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new_unnamed())?;
        let address = SocketAddrUnix::try_from(getsockname(&socket)?)?;
        let name = address.abstract_name().ok_or(Errno::ADDRNOTAVAIL)?;
        let variable = format!("@{}", String::from_utf8_lossy(name)).into();
        // SAFETY: an `OwnedFd` always gives the descriptor that it keeps open.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok((Self(socket), variable))
    }

    /// Takes what is said, for ever, so that nobody waits to say it; and passes on that the worker,
    /// the leader of its process group, is ready.
    pub async fn listen(&self, worker: u32, ready: &Notify) {
        while let Ok(mut guard) = self.0.readable().await {
            match guard.try_io(|socket| receive(socket.get_ref(), worker)) {
                Ok(Ok(true)) => ready.notify_one(),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::warn!("cannot receive what a worker notifies of: {error}");
                    return;
                }
            }
        }
    }
}

/// Takes one datagram: whether it is the worker's, and says that it is ready.
fn receive(socket: &OwnedFd, worker: u32) -> io::Result<bool> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::empty())?;
    let is_theirs = ancillary.drain().any(|message| match message {
        // The process may be gone, as `systemd-notify` is.
        RecvAncillaryMessage::ScmCredentials(sender) => {
            sender.uid == geteuid() || getpgid(Some(sender.pid)).ok() == to_pid(worker)
        }
        _ => false,
    });
    Ok(is_theirs && says_ready(text.get(..received.bytes).unwrap_or_default()))
}

fn says_ready(message: &[u8]) -> bool {
    message.split(|&byte| byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_a_line_of_its_own_among_others() {
        assert!(says_ready(b"READY=1") && says_ready(b"STATUS=well\nREADY=1\n"));
        for message in ["", "READY=0", "STATUS=READY=1", "READY=10"] {
            assert!(!says_ready(message.as_bytes()), "{message}");
        }
    }
}
