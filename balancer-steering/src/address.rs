//! What `--listen` and `attach` name, and the name that its group gets.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    str::FromStr,
};

use crate::protocol::Protocol;

/// A local address to listen on. `[::]` takes IPv4 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// What `attach` and `detach` name: an address that is served, or whichever is served on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedAddress {
    /// `:8080`
    Port(u16),
    /// `127.0.0.1:8080`
    Exactly(SocketAddr),
}

impl ServedAddress {
    /// Whether an address is meant.
    pub fn matches(self, address: SocketAddr) -> bool {
        match self {
            Self::Port(port) => address.port() == port,
            Self::Exactly(exactly) => address == exactly,
        }
    }

    /// The port, which is always named.
    pub fn port(self) -> u16 {
        match self {
            Self::Port(port) => port,
            Self::Exactly(address) => address.port(),
        }
    }
}

impl FromStr for ServedAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let ListenAddress(address) = text.parse()?;
        match address.port() {
            // Nobody serves there: it stands for any free port.
            0 => Err(ListenAddressError(text.to_owned())),
            port if text.starts_with(':') => Ok(Self::Port(port)),
            _ => Ok(Self::Exactly(address)),
        }
    }
}

impl fmt::Display for ServedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, ":{port}"),
            Self::Exactly(address) => address.fmt(f),
        }
    }
}

/// What `attach` names: an address that is served, and, if it is said, by which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachAddress {
    /// `udp/` before it.
    pub protocol: Option<Protocol>,
    /// The address.
    pub address: ServedAddress,
}

impl FromStr for AttachAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let (protocol, address) = match text.split_once('/') {
            Some(("tcp", address)) => (Some(Protocol::Tcp), address),
            Some(("udp", address)) => (Some(Protocol::Udp), address),
            _ => (None, text),
        };
        let address = address.parse().map_err(|_| ListenAddressError(text.to_owned()))?;
        Ok(Self { protocol, address })
    }
}

impl fmt::Display for AttachAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}/")?;
        }
        self.address.fmt(f)
    }
}

/// Why a text is no address to listen on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an address to listen on; write ADDRESS:PORT such as 127.0.0.1:8080, [::1]:8080 \
     or 0.0.0.0:8080, or :8080 for every address (a name such as localhost is not looked up)"
)]
pub struct ListenAddressError(String);

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let error = || ListenAddressError(text.to_owned());
        if let Some(port) = text.strip_prefix(':') {
            let port = port.parse().map_err(|_| error())?;
            return Ok(Self(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)));
        }
        text.parse().map(Self).map_err(|_| error())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The octets of an address as a group's record holds them, with the IPv6 scope.
pub fn to_octets(address: SocketAddr) -> ([u8; 16], u32) {
    match address {
        SocketAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.ip().octets());
            (octets, 0)
        }
        SocketAddr::V6(v6) => (v6.ip().octets(), v6.scope_id()),
    }
}

/// The inverse of [`to_octets`]; `None` for a family that is neither 4 nor 6.
pub fn from_octets(family: u8, octets: [u8; 16], scope: u32, port: u16) -> Option<SocketAddr> {
    match family {
        4 => {
            let [a, b, c, d, ..] = octets;
            Some(SocketAddr::new(IpAddr::from([a, b, c, d]), port))
        }
        6 => Some(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_survives_the_record(ip: IpAddr, port: u16) {
            let address = SocketAddr::new(ip, port);
            let (octets, scope) = to_octets(address);
            let family = if address.is_ipv4() { 4 } else { 6 };
            prop_assert_eq!(from_octets(family, octets, scope, port), Some(address));
        }

        #[test]
        fn an_address_is_read_as_it_is_shown(ip: IpAddr, port: u16) {
            let address = ListenAddress(SocketAddr::new(ip, port));
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<ListenAddress>();
            let _ = text.parse::<ServedAddress>();
            let _ = text.parse::<AttachAddress>();
        }
    }

    #[test]
    fn a_port_alone_means_every_address_of_both_families() {
        assert_eq!(":8080".parse::<ListenAddress>().unwrap().to_string(), "[::]:8080");
    }

    #[test]
    fn a_port_alone_is_served_by_whoever_is_there_and_an_address_by_itself() {
        let (here, everywhere) = ("127.0.0.1:80".parse().unwrap(), "[::]:80".parse().unwrap());
        let matches = |text: &str| {
            let served: ServedAddress = text.parse().unwrap();
            assert_eq!(served.to_string(), text);
            [here, everywhere].map(|address| served.matches(address))
        };
        assert_eq!(matches(":80"), [true, true]);
        assert_eq!(matches("127.0.0.1:80"), [true, false]);
        assert_eq!(matches("[::]:80"), [false, true]);
        assert_eq!(matches(":81"), [false, false]);
        assert!(":0".parse::<ServedAddress>().is_err());
    }

    #[test]
    fn a_protocol_may_be_said_before_an_address_as_it_is_shown() {
        for text in ["udp/:443", "tcp/[::]:80", "127.0.0.1:80"] {
            assert_eq!(text.parse::<AttachAddress>().unwrap().to_string(), text);
        }
        assert_eq!("udp/:53".parse::<AttachAddress>().unwrap().protocol, Some(Protocol::Udp));
        for text in ["sctp/:53", "udp/", "udp/tcp/:53"] {
            let message = text.parse::<AttachAddress>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")), "{message}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_its_value_with_an_example() {
        for text in ["8080", "localhost:8080", "127.0.0.1", "127.0.0.1:99999", ""] {
            let message = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("127.0.0.1:8080"));
        }
    }
}
