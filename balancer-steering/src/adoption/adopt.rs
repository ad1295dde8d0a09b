//! One member's socket: borrowed from a process that has it, checked, seated, and given back. A copy
//! that lingered would keep a dead server's socket listening, with nobody to accept.

use std::{
    borrow::Borrow,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use balancer_common::record::SlotState;
use socket2::SockRef;

use crate::{
    discovery::{FoundSocket, Holder, Problem},
    group::{GroupIdentity, Protocol},
    process,
    steering::{Occupant, SocketMaps, Steering},
    weight::Weight,
};

/// Why a socket is not steered.
#[derive(Debug, thiserror::Error)]
pub enum NotAdopted {
    /// The processes that had it have ended, or closed it.
    #[error("it is gone")]
    Gone,
    /// Nothing that could be adopted: it only has the address in common.
    #[error("it is bound there without SO_REUSEPORT; set that in the server, before it binds")]
    Stranger,
    /// It is of a kind that cannot be, or cannot be seen.
    #[error("{}: {}", .0.name(), .0.explanation())]
    Problem(Problem),
    /// Its process is not ours to borrow from.
    #[error("its socket cannot be duplicated ({0}); run this as root, or with CAP_SYS_PTRACE")]
    Denied(io::Error),
    /// Something else has it.
    #[error("{0}")]
    Taken(Occupant),
    /// The kernel, or a map.
    #[error("{0:#}")]
    Other(crate::error::Error),
}

impl NotAdopted {
    /// Whether another try may end differently: the socket may be on its way from one process to
    /// another.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Gone | Self::Problem(Problem::Unseen))
    }

    /// Adds what the loaded maps tell.
    pub fn explain<M: Borrow<SocketMaps>>(
        &mut self,
        socket: &FoundSocket,
        maps: impl FnOnce() -> M,
    ) {
        if let Self::Taken(occupant) = self {
            *occupant = maps().borrow().occupant(socket.cookie, occupant);
        }
    }

    /// What has it, if something else has.
    pub fn occupant(&self) -> Option<&Occupant> {
        if let Self::Taken(occupant) = self { Some(occupant) } else { None }
    }
}

/// Seats a member's socket and lets it be chosen from the next `publish` on; its slot.
///
/// # Errors
/// Returns an error if it cannot be had, is not what was found, or is refused.
pub fn adopt(
    steering: &mut Steering,
    identity: &GroupIdentity,
    found: &FoundSocket,
) -> Result<u32, NotAdopted> {
    let (socket, lender) = borrow(identity, found)?;
    let slot = steering
        .seat(socket.as_fd(), Weight::ONE)
        .map_err(|error| refused(error, socket.as_fd()))?;
    let worker = found.worker.as_ref().map_or(lender.process, |worker| worker.process);
    steering.set_worker(slot, worker).map_err(NotAdopted::Other)?;
    steering.set_state(slot, SlotState::Live).map_err(NotAdopted::Other)?;
    Ok(slot)
}

/// A member's socket, from its worker or whoever else has it.
///
/// # Errors
/// Returns an error if nobody lends it, or it is not what was found.
pub fn borrow<'a>(
    identity: &GroupIdentity,
    found: &'a FoundSocket,
) -> Result<(OwnedFd, &'a Holder), NotAdopted> {
    if let Some(problem) = found.problem {
        return Err(NotAdopted::Problem(problem));
    }
    let mut refusal = NotAdopted::Gone;
    for holder in found.worker.iter().chain(&found.holders) {
        match process::duplicate_fd(holder.process, holder.fd, found.inode) {
            Ok(socket) => {
                check(&SockRef::from(&socket), identity, found.cookie)?;
                return Ok((socket, holder));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                refusal = NotAdopted::Denied(error);
            }
            Err(_) => {}
        }
    }
    Err(refusal)
}

/// Whether a socket is the one that was found, and a member: between finding and borrowing it, the
/// process may have put another into its place.
fn check(socket: &SockRef<'_>, identity: &GroupIdentity, cookie: u64) -> Result<(), NotAdopted> {
    let unknown = |_| NotAdopted::Gone;
    let protocol = socket.protocol().map_err(unknown)?.map(i32::from);
    if protocol == Some(libc::IPPROTO_MPTCP) {
        return Err(NotAdopted::Problem(Problem::Mptcp));
    }
    let address = socket.local_addr().map_err(unknown)?.as_socket();
    let takes = identity.protocol == Protocol::Udp || socket.is_listener().map_err(unknown)?;
    let same = socket.cookie().map_err(unknown)? == cookie
        && protocol == Some(identity.protocol as i32)
        && address == Some(identity.address)
        && takes;
    if !same {
        return Err(NotAdopted::Gone);
    }
    if !socket.reuse_port().map_err(unknown)? {
        return Err(NotAdopted::Stranger);
    }
    Ok(())
}

fn refused(error: crate::error::Error, socket: BorrowedFd<'_>) -> NotAdopted {
    let busy = rustix::io::Errno::BUSY.raw_os_error();
    if error.cause().and_then(io::Error::raw_os_error) == Some(busy) {
        NotAdopted::Taken(Occupant::of(socket))
    } else {
        NotAdopted::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A socket on a free port, and what discovery would say of it.
    fn open(kind: Type, shares: bool) -> (Socket, GroupIdentity, u64) {
        let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
        socket.set_reuse_port(shares).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let protocol = if kind == Type::STREAM { Protocol::Tcp } else { Protocol::Udp };
        let cookie = socket.cookie().unwrap();
        (socket, GroupIdentity { netns: 1, protocol, address }, cookie)
    }

    fn checked(socket: &Socket, identity: &GroupIdentity, cookie: u64) -> Result<(), NotAdopted> {
        check(&SockRef::from(socket), identity, cookie)
    }

    #[test]
    fn what_was_found_is_adopted() {
        let (tcp, identity, cookie) = open(Type::STREAM, true);
        tcp.listen(1).unwrap();
        assert!(checked(&tcp, &identity, cookie).is_ok());
        let (udp, identity, cookie) = open(Type::DGRAM, true);
        assert!(checked(&udp, &identity, cookie).is_ok());
    }

    #[test]
    fn whatever_is_not_what_was_found_is_gone() {
        let (tcp, identity, cookie) = open(Type::STREAM, true);
        let gone = |identity: &GroupIdentity, cookie| {
            matches!(checked(&tcp, identity, cookie), Err(NotAdopted::Gone))
        };
        assert!(gone(&identity, cookie), "it does not listen");
        tcp.listen(1).unwrap();
        assert!(gone(&identity, cookie + 1));
        assert!(gone(&GroupIdentity { protocol: Protocol::Udp, ..identity }, cookie));
        let address = std::net::SocketAddr::from(([127, 0, 0, 2], identity.address.port()));
        assert!(gone(&GroupIdentity { address, ..identity }, cookie));
    }

    #[test]
    fn one_that_only_has_the_address_in_common_is_a_stranger() {
        let (udp, identity, cookie) = open(Type::DGRAM, false);
        assert!(matches!(checked(&udp, &identity, cookie), Err(NotAdopted::Stranger)));
    }
}
