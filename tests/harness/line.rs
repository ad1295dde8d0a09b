//! The server of `servers/line.py`, which `balancer run` starts as a command: it answers each line
//! with its PID.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::running::PATIENCE;

/// The script.
pub const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/line.py");

/// A connection to a server.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Returns an error if nobody listens.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a part of a request, which the next [`Client::ask`] completes.
    ///
    /// # Errors
    /// Returns an error if it cannot be sent.
    pub fn begin(&mut self) -> io::Result<()> {
        self.0.get_mut().write_all(b"who, ")
    }

    /// Who serves it.
    ///
    /// # Errors
    /// Returns an error if it is not answered.
    pub fn ask(&mut self) -> io::Result<u32> {
        self.0.get_mut().write_all(b"who\n")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        line.trim_end().parse().map_err(|_| io::Error::other("an answer without a PID"))
    }
}

/// Asks once, over a connection of its own.
///
/// # Errors
/// Returns an error if it is not answered.
pub fn ask(address: SocketAddr) -> io::Result<u32> {
    Client::connect(address)?.ask()
}
