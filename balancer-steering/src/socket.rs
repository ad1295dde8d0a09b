//! Opens the listening sockets of a group, and says why one cannot be had.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use procfs::net::{TcpNetEntry, TcpState};
use rustix::process::geteuid;
use socket2::{Domain, Socket, Type};

use crate::{process, protocol::Protocol};

/// The kernel bounds it by `net.core.somaxconn`; so ask for all that allows.
const BACKLOG: i32 = i32::MAX;

/// Why a port cannot be had. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there who does not share, or not with us.
    #[error("{address} is taken{by}: {reason}; stop it or choose another address")]
    Taken {
        /// The address asked for.
        address: SocketAddr,
        /// ` by PID …`, as far as can be seen.
        by: String,
        /// Why the kernel does not let us join.
        reason: String,
    },
    /// The address is none of this machine's.
    #[error(
        "{0} is not an address of this machine (or network namespace); `ip address` lists them, \
         and 0.0.0.0 or [::] stand for all"
    )]
    NotLocal(IpAddr),
    /// A port below 1024 without the right.
    #[error("port {0} needs CAP_NET_BIND_SERVICE; run as root or choose a port from 1024 up")]
    Privileged(u16),
    /// The kernel has no such address family.
    #[error(
        "this kernel has IPv6 switched off, so {0} cannot be listened on; use 0.0.0.0 or 127.0.0.1"
    )]
    NoFamily(SocketAddr),
    /// Something else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
}

/// Binds a TCP socket that shares its address. It listens only after [`listen`].
///
/// # Errors
/// Returns an error if the address cannot be had.
pub fn bind(address: SocketAddr) -> Result<Socket, BindError> {
    bind_as(Protocol::Tcp, address)
}

/// As [`bind`]; a UDP socket is a member of the kernel's group from then on.
///
/// # Errors
/// As [`bind`].
pub fn bind_as(protocol: Protocol, address: SocketAddr) -> Result<Socket, BindError> {
    let socket = open(protocol, address).map_err(|error| explain(protocol, address, error))?;
    socket.bind(&address.into()).map_err(|error| explain(protocol, address, error))?;
    Ok(socket)
}

fn open(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    // Before bind: a group is formed of sockets that had it by then.
    socket.set_reuse_port(true)?;
    // So that connections which linger from an earlier run do not keep the port. To UDP it means that
    // anybody may share it.
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        // Said, not left to net.ipv6.bindv6only: [::] takes IPv4 too.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

/// Lets a bound socket listen: from now on it is a member of the kernel's group.
///
/// # Errors
/// Returns an error if somebody took the address since it was bound.
pub fn listen(socket: &Socket, address: SocketAddr) -> Result<(), BindError> {
    socket.listen(BACKLOG).map_err(|error| explain(Protocol::Tcp, address, error))
}

fn explain(protocol: Protocol, address: SocketAddr, error: io::Error) -> BindError {
    match error.kind() {
        io::ErrorKind::AddrInUse if protocol == Protocol::Udp => {
            let reason = "a UDP socket is bound to it without SO_REUSEPORT, or by another user";
            BindError::Taken { address, by: String::new(), reason: reason.to_owned() }
        }
        io::ErrorKind::AddrInUse => taken(address),
        io::ErrorKind::AddrNotAvailable => BindError::NotLocal(address.ip()),
        io::ErrorKind::PermissionDenied => BindError::Privileged(address.port()),
        _ if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            BindError::NoFamily(address)
        }
        _ => BindError::Other { address, error },
    }
}

fn taken(address: SocketAddr) -> BindError {
    let Some(entry) =
        listeners(address.port()).into_iter().find(|e| overlaps(e.local_address, address))
    else {
        let reason =
            "a socket that does not listen is bound to it, without SO_REUSEPORT".to_owned();
        return BindError::Taken { address, by: String::new(), reason };
    };
    let own = geteuid().as_raw();
    let reason = if entry.uid == own {
        "it has not set SO_REUSEPORT, so it does not share the port".to_owned()
    } else {
        format!(
            "it runs as uid {}, and the kernel shares a port only within one uid (ours is {own})",
            entry.uid
        )
    };
    BindError::Taken { address, by: describe_holders(entry.inode), reason }
}

/// ` by PID 7 (nginx)`, or nothing where the holders cannot be seen.
pub fn describe_holders(inode: u64) -> String {
    let holders: Vec<String> = process::socket_holders(inode)
        .into_iter()
        .map(|pid| format!("PID {pid} ({})", process::command_name(pid).unwrap_or_default()))
        .collect();
    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) }
}

/// The listening TCP sockets on a port in this network namespace.
pub fn listeners(port: u16) -> Vec<TcpNetEntry> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    tables
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.state == TcpState::Listen && entry.local_address.port() == port)
        .collect()
}

/// Whether two local addresses of one port stand in each other's way.
fn overlaps(theirs: SocketAddr, ours: SocketAddr) -> bool {
    theirs.ip() == ours.ip() || theirs.ip().is_unspecified() || ours.ip().is_unspecified()
}
