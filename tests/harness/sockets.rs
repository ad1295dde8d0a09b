//! Sockets of the test's own that share their address.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::tools::nft;

/// A socket on its way to an address.
pub struct Opening(pub Socket);

impl Opening {
    /// A TCP socket with SO_REUSEPORT.
    pub fn tcp(address: &str) -> Self {
        Self::new(address, Type::STREAM, Protocol::TCP)
    }

    /// A UDP socket with SO_REUSEPORT.
    pub fn udp(address: &str) -> Self {
        Self::new(address, Type::DGRAM, Protocol::UDP)
    }

    fn new(address: &str, kind: Type, protocol: Protocol) -> Self {
        let domain = Domain::for_address(address.parse().unwrap());
        let socket = Socket::new(domain, kind, Some(protocol)).unwrap();
        socket.set_reuse_port(true).unwrap();
        Self(socket)
    }

    /// Sets something before it is bound.
    #[must_use]
    pub fn with(self, set: impl FnOnce(&Socket)) -> Self {
        set(&self.0);
        self
    }

    /// Binds it; TCP listens.
    pub fn at(self, address: &str) -> Socket {
        self.0.bind(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
        if self.0.r#type().unwrap() == Type::STREAM {
            self.0.listen(1024).unwrap();
        }
        self.0
    }
}

/// A listener that shares its address.
pub fn tcp(address: &str) -> Socket {
    Opening::tcp(address).at(address)
}

/// A UDP socket that shares its address.
pub fn udp(address: &str) -> Socket {
    Opening::udp(address).at(address)
}

/// Sends a listener one TCP segment that belongs to no connection.
pub fn send_segment(listener: SocketAddr, flags: u8) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
    let segment = segment(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, listener.port(), flags);
    socket.send_to(&segment, &listener.into()).unwrap();
}

fn segment(from: Ipv4Addr, to: Ipv4Addr, port: u16, flags: u8) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&50_000u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&1024u16.to_be_bytes());
    // RFC 9293: the ones' complement sum over addresses, protocol, length and segment.
    let pseudo_header = [from.octets(), to.octets(), [0, 6, 0, 20]].concat();
    let sum: u32 = pseudo_header
        .chunks(2)
        .chain(segment.chunks(2))
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// Clients of made-up addresses, each of which begins one connection and never answers.
pub struct Flood {
    socket: Socket,
    clients: u32,
}

impl Flood {
    /// Lets what is sent to such clients vanish, and sends nothing yet. Needs nft.
    #[expect(clippy::new_without_default, reason = "it changes the host")]
    pub fn new() -> Self {
        nft("table ip flood { chain in { type filter hook input priority 0; \
             ip daddr 127.16.0.0/12 drop; }; }");
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
        socket.set_header_included_v4(true).unwrap();
        Self { socket, clients: 0 }
    }

    /// So many more of them send a SYN.
    pub fn send(&mut self, listener: SocketAddr, count: u32) {
        let to = Ipv4Addr::LOCALHOST;
        for _ in 0..count {
            let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 16, 0, 0)) + self.clients);
            self.clients += 1;
            // RFC 791; the kernel fills in length and checksum.
            let mut packet = [0; 40];
            packet[0] = 0x45;
            packet[8] = 64;
            packet[9] = 6;
            packet[12..16].copy_from_slice(&from.octets());
            packet[16..20].copy_from_slice(&to.octets());
            packet[20..].copy_from_slice(&segment(from, to, listener.port(), 0x02));
            self.socket.send_to(&packet, &listener.into()).unwrap();
        }
    }
}
