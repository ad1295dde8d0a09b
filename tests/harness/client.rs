//! A client that makes one connection a request and notes who answered.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::running::PATIENCE;

/// Who answered a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The worker.
    pub pid: u32,
    /// Its slot.
    pub slot: u32,
    /// The policy in force.
    pub policy: String,
    /// The whole body.
    pub body: String,
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// Connects, asks, and reads the answer to its end.
///
/// # Errors
/// Refused, reset, or silent for longer than a test has patience.
pub fn request(address: SocketAddr) -> io::Result<Answer> {
    receive(connect(address)?)
}

/// Connects and sends the request, without waiting for the answer.
///
/// # Errors
/// As [`request`].
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), PATIENCE)?;
    stream.write_all(REQUEST)?;
    Ok(stream)
}

/// As [`request`], from a source port that decides the hash.
///
/// # Errors
/// As [`request`].
pub fn request_from(source: SocketAddr, address: SocketAddr) -> io::Result<Answer> {
    let mut stream = connect_from(source, address)?;
    stream.write_all(REQUEST)?;
    receive(stream)
}

/// A connection from there, on which nothing is sent.
///
/// # Errors
/// As [`request`].
pub fn connect_from(source: SocketAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let address = reachable(address);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Reads the answer of a request sent.
///
/// # Errors
/// As [`request`].
pub fn receive(mut stream: TcpStream) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE.max(Duration::from_secs(1))))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::other(format!("no answer of a worker: {text:?}")))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    let (_, pid) = body.trim_end().strip_suffix(']')?.rsplit_once("Server PID: [")?;
    Some(Answer {
        pid: pid.parse().ok()?,
        slot: header("x-balancer-slot")?.parse().ok()?,
        policy: header("x-balancer-policy").unwrap_or_default(),
        body: body.to_owned(),
    })
}

/// An address that stands for all is reached by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Makes a request and reads the beginning of its answer: the connection has been accepted then, and
/// stays.
///
/// # Panics
/// Where there is no answer.
pub fn say_hello(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(stream.read(&mut [0; 512]).expect("an answer") > 0, "the connection was closed");
}

/// Makes requests one after another; each must be answered.
pub fn requests(address: SocketAddr, count: usize) -> Vec<Answer> {
    (0..count).map(|_| request(address).expect("an answer")).collect()
}

/// How many answers each slot gave.
pub fn by_slot(answers: &[Answer]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.slot).or_default() += 1;
    }
    counts
}
