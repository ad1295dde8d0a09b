//! Asks the kernel's socket diagnostics (`NETLINK_SOCK_DIAG`) for the sockets that could be
//! members of a group: TCP ones that listen, UDP ones that are bound and not connected.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use rustix::net::netdevice::index_to_name;

use crate::group::Protocol;

// linux/inet_diag.h; the crate does not name them.
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;

/// What the kernel goes by when it puts sockets into one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub protocol: Protocol,
    pub address: SocketAddr,
    pub v6only: bool,
    pub device: Option<String>,
    pub uid: u32,
}

/// A socket that takes what comes to its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoundSocket {
    pub place: Place,
    pub inode: u64,
    pub cookie: u64,
    pub queue: u32,
    pub mptcp: bool,
}

/// All of them in this thread's network namespace, in no order.
///
/// # Errors
/// Where the kernel does not tell, for want of its `tcp_diag` or `udp_diag` module most likely.
pub(super) fn sockets() -> io::Result<Vec<BoundSocket>> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    let mut sockets = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for family in [AF_INET, AF_INET6] {
            let dumped = dump(&socket, protocol, family, &mut sockets);
            dumped.map_err(|error| explain(error, protocol))?;
        }
    }
    Ok(sockets)
}

fn explain(error: io::Error, protocol: Protocol) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::other(format!(
            "the kernel lists no {protocol} sockets; try: sudo modprobe {protocol}_diag"
        )),
        _ => error,
    }
}

fn dump(
    socket: &Socket,
    protocol: Protocol,
    family: u8,
    into: &mut Vec<BoundSocket>,
) -> io::Result<()> {
    socket.send(&request(protocol, family), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            rest = rest.get(padded(message.header.length)..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    into.push(bound_socket(socket, protocol, &response));
                }
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                // What stops a dump half-way, or before it begins, is reported by its end.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                _ => {}
            }
        }
    }
}

/// Messages of one datagram begin at multiples of four.
fn padded(length: u32) -> usize {
    (length as usize).next_multiple_of(4)
}

fn request(protocol: Protocol, family: u8) -> Vec<u8> {
    let (protocol, states) = match protocol {
        Protocol::Tcp => (IPPROTO_TCP, StateFlags::LISTEN),
        // To the kernel, UDP that is not connected is closed.
        Protocol::Udp => (IPPROTO_UDP, StateFlags::CLOSE),
    };
    let request = InetRequest {
        family,
        protocol,
        // Brings the upper layer protocol with it, by which MPTCP is known.
        extensions: ExtensionFlags::INFO,
        states,
        socket_id: SocketId::new_v4(),
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn bound_socket(socket: &Socket, protocol: Protocol, response: &InetResponse) -> BoundSocket {
    let header = &response.header;
    let id = &header.socket_id;
    let device = (id.interface_id != 0).then(|| {
        index_to_name(socket, id.interface_id).unwrap_or_else(|_| id.interface_id.to_string())
    });
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
        mptcp: response.nlas.iter().any(is_mptcp),
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
