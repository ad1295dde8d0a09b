//! Asks the kernel's socket diagnostics (`NETLINK_SOCK_DIAG`) for the sockets that could be
//! members of a group: TCP ones that listen, UDP ones that are bound and not connected; and for
//! what became of them, the connections.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use netlink_packet_core::{Nla as _, NlasIterator};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_SYN_RECV,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use rustix::net::netdevice::index_to_name;

use super::netlink::Diagnostics;
use crate::group::Protocol;

// linux/inet_diag.h; the crate does not name them.
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;

/// What the kernel goes by when it puts sockets into one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What they are bound to.
    pub address: SocketAddr,
    /// Whether they leave IPv4 alone.
    pub v6only: bool,
    /// The network device they are bound to.
    pub device: Option<String>,
    /// Whose they are.
    pub uid: u32,
}

/// A socket that takes what comes to its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    /// Where.
    pub place: Place,
    pub(crate) inode: u64,
    /// The kernel's own name for it, never used twice.
    pub cookie: u64,
    pub(crate) queue: u32,
    /// TCP: how many connections may wait.
    pub(crate) limit: u32,
    pub(crate) mptcp: bool,
}

/// A TCP connection, as its server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's own name for it, never used twice; the same from its first SYN on.
    pub cookie: u64,
    /// The server's end.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
    /// How far it is.
    pub life: Life,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its handshake is under way.
    HalfOpen,
    /// It waits to be accepted.
    Queued,
    /// Somebody has it open: an inode.
    Accepted(u64),
    /// The server has said its last word, and the kernel delivers the rest.
    Closed,
}

impl Life {
    /// The inode of one that somebody has open.
    pub fn accepted(self) -> Option<u64> {
        match self {
            Self::Accepted(inode) => Some(inode),
            _ => None,
        }
    }
}

/// All that could be members, in this thread's network namespace, in no order.
///
/// # Errors
/// Returns an error if the kernel does not tell, for want of its `tcp_diag` or `udp_diag` module most likely.
pub(super) fn sockets() -> io::Result<Vec<BoundSocket>> {
    let kernel = Diagnostics::open()?;
    let mut sockets = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        dump_bound(&kernel, protocol, 0, &mut sockets)?;
    }
    Ok(sockets)
}

/// As [`sockets`], of one protocol and port.
///
/// # Errors
/// As [`sockets`].
pub(super) fn sockets_on(protocol: Protocol, port: u16) -> io::Result<Vec<BoundSocket>> {
    let kernel = Diagnostics::open()?;
    let mut sockets = Vec::new();
    dump_bound(&kernel, protocol, port, &mut sockets)?;
    Ok(sockets)
}

fn dump_bound(
    kernel: &Diagnostics,
    protocol: Protocol,
    port: u16,
    sockets: &mut Vec<BoundSocket>,
) -> io::Result<()> {
    dump(kernel, &Query::bound(protocol, port), |response| {
        let name = |index| index_to_name(kernel, index).ok();
        sockets.push(bound_socket(protocol, response, name));
    })?;
    keep_once(sockets);
    Ok(())
}

/// The kernel goes on with a listing by counting, so one that comes meanwhile lets it list another
/// twice (and one that goes lets it leave another out).
fn keep_once(sockets: &mut Vec<BoundSocket>) {
    let mut seen = HashSet::new();
    sockets.retain(|socket| seen.insert(socket.cookie));
}

/// Those of one place; what the kernel looks through is its port.
///
/// # Errors
/// As [`sockets`].
pub(super) fn sockets_at(place: &Place) -> io::Result<Vec<BoundSocket>> {
    let mut sockets = sockets_on(place.protocol, place.address.port())?;
    sockets.retain(|socket| socket.place == *place);
    Ok(sockets)
}

/// The TCP connections to a port that are open on both sides. One that moves on meanwhile is there once
/// at least: the kernel keeps it in one place all the time.
///
/// # Errors
/// As [`sockets`].
pub(super) fn connections(port: u16) -> io::Result<Vec<Connection>> {
    connections_in(port, StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT)
}

/// Those whose handshake is under way.
///
/// # Errors
/// As [`sockets`].
pub(super) fn half_open(port: u16) -> io::Result<Vec<Connection>> {
    connections_in(port, StateFlags::SYN_RECV)
}

fn connections_in(port: u16, states: StateFlags) -> io::Result<Vec<Connection>> {
    let kernel = Diagnostics::open()?;
    let mut connections = Vec::new();
    let query =
        Query { protocol: Protocol::Tcp, port, states, extensions: ExtensionFlags::empty() };
    dump(&kernel, &query, |response| connections.push(connection(response)))?;
    Ok(connections)
}

/// TCP connections to a port in some states, with what extensions and attributes of the request ask for.
///
/// # Errors
/// As [`sockets`].
pub(super) fn dump_with(
    kernel: &Diagnostics,
    port: u16,
    states: StateFlags,
    extensions: ExtensionFlags,
    attributes: &[u8],
    mut take: impl FnMut(&InetResponse),
) -> io::Result<()> {
    let query = Query { protocol: Protocol::Tcp, port, states, extensions };
    for family in [AF_INET, AF_INET6] {
        kernel
            .dump_with(request(&query, family), attributes, &mut take)
            .map_err(|error| explain(error, query.protocol))?;
    }
    Ok(())
}

/// Which sockets are asked for; port 0 for all.
struct Query {
    protocol: Protocol,
    port: u16,
    states: StateFlags,
    extensions: ExtensionFlags,
}

impl Query {
    fn bound(protocol: Protocol, port: u16) -> Self {
        let states = match protocol {
            Protocol::Tcp => StateFlags::LISTEN,
            // To the kernel, UDP that is not connected is closed.
            Protocol::Udp => StateFlags::CLOSE,
        };
        // Brings the upper layer protocol with it, by which MPTCP is known.
        Self { protocol, port, states, extensions: ExtensionFlags::INFO }
    }
}

fn explain(error: io::Error, protocol: Protocol) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::other(format!(
            "the kernel lists no {protocol} sockets; try: sudo modprobe {protocol}_diag"
        )),
        _ => error,
    }
}

/// Of both families.
fn dump(
    kernel: &Diagnostics,
    query: &Query,
    mut take: impl FnMut(&InetResponse),
) -> io::Result<()> {
    for family in [AF_INET, AF_INET6] {
        kernel
            .dump(request(query, family), &mut take)
            .map_err(|error| explain(error, query.protocol))?;
    }
    Ok(())
}

fn request(query: &Query, family: u8) -> InetRequest {
    InetRequest {
        family,
        protocol: match query.protocol {
            Protocol::Tcp => IPPROTO_TCP,
            Protocol::Udp => IPPROTO_UDP,
        },
        extensions: query.extensions.clone(),
        states: query.states.clone(),
        socket_id: SocketId { source_port: query.port, ..SocketId::new_v4() },
    }
}

/// A device is known by its index, unless `name` knows its name.
pub fn bound_socket(
    protocol: Protocol,
    response: &InetResponse,
    name: impl FnOnce(u32) -> Option<String>,
) -> BoundSocket {
    let header = &response.header;
    let id = &header.socket_id;
    let index = id.interface_id;
    let device = (index != 0).then(|| name(index).unwrap_or_else(|| index.to_string()));
    BoundSocket {
        place: Place {
            protocol,
            address: address(id),
            v6only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
            device,
            uid: header.uid,
        },
        inode: header.inode.into(),
        cookie: u64::from_ne_bytes(id.cookie),
        queue: header.recv_queue,
        limit: header.send_queue,
        mptcp: response.nlas.iter().any(is_mptcp),
    }
}

/// A connection, out of the kernel's answer.
pub fn connection(response: &InetResponse) -> Connection {
    let header = &response.header;
    let id = &header.socket_id;
    let life = match (header.state, header.inode) {
        (TCP_SYN_RECV, _) => Life::HalfOpen,
        // No file is made of it before it is accepted; and none is left once it is closed, from
        // which on it is in another state than these.
        (TCP_ESTABLISHED | TCP_CLOSE_WAIT, 0) => Life::Queued,
        (TCP_ESTABLISHED | TCP_CLOSE_WAIT, inode) => Life::Accepted(inode.into()),
        _ => Life::Closed,
    };
    Connection {
        cookie: u64::from_ne_bytes(id.cookie),
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        life,
    }
}

/// A link-local address is bound to the device of its scope, and to no other.
fn address(id: &SocketId) -> SocketAddr {
    match id.source_address {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, id.source_port, 0, id.interface_id).into()
        }
        ip => SocketAddr::new(ip, id.source_port),
    }
}

/// An MPTCP listener shows as the TCP socket below it, with `mptcp` as its upper layer.
fn is_mptcp(nla: &Nla) -> bool {
    let Nla::Other(nla) = nla else { return false };
    if nla.kind() & 0x3fff != INET_DIAG_ULP_INFO {
        return false;
    }
    let mut nested = vec![0; nla.value_len()];
    nla.emit_value(&mut nested);
    NlasIterator::new(nested.as_slice())
        .flatten()
        .any(|nla| nla.kind() == INET_ULP_INFO_NAME && nla.value().starts_with(b"mptcp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listing_has_twice_is_one() {
        let mut sockets = [7, 8, 7, 9].map(crate::testing::bound).to_vec();
        keep_once(&mut sockets);
        assert_eq!(sockets.iter().map(|socket| socket.cookie).collect::<Vec<_>>(), [7, 8, 9]);
    }
}
