//! Sockets of the test's own that share their address.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

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
