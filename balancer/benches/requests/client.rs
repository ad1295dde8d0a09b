//! The clients: a thread per connection, each of which runs as soon as it can, so that what a client sees is
//! late by as little as possible.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use balancer_lab::machine;

/// Longer than any server takes to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Requests under way at once on a connection with pipelining.
const DEPTH: usize = 4;

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One after another on connections that stay.
    KeepAlive,
    /// A connection for each.
    ConnectionEach,
    /// On connections that stay, the next ones before the last is answered.
    Pipelined,
    /// One after another on connections that stay, encrypted: by `openssl s_client`.
    Tls,
}

impl Way {
    /// In a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::ConnectionEach => "a connection each",
            Self::Pipelined => "pipelined",
            Self::Tls => "keep-alive, TLS",
        }
    }
}

/// What the clients ask for.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Whom.
    pub address: SocketAddr,
    /// How.
    pub way: Way,
    /// A whole request.
    pub request: &'a [u8],
    /// How many clients ask at once.
    pub clients: usize,
    /// How many requests each sends.
    pub requests: usize,
}

impl Asking<'_> {
    /// Connects, does something else (`meanwhile`), and then sends all requests. How long each took, from
    /// just before its first octet was written to the first octet of its answer; and what that made.
    ///
    /// # Errors
    /// Returns an error if a request is not answered, or what is done meanwhile fails.
    pub fn run<T>(self, meanwhile: impl FnOnce() -> Result<T>) -> Result<(Vec<Duration>, T)> {
        let together = &Barrier::new(self.clients + 1);
        thread::scope(|scope| {
            let spawn = |_| scope.spawn(move || self.client(together));
            let clients: Vec<_> = (0..self.clients).map(spawn).collect();
            together.wait();
            let made = meanwhile();
            together.wait();
            let mut all = Vec::new();
            for client in clients {
                all.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
            }
            Ok((all, made?))
        })
    }

    fn client(self, together: &Barrier) -> Result<Vec<Duration>> {
        let preferred = machine::prefer_this_thread();
        let connection = (self.way != Way::ConnectionEach).then(|| self.open()).transpose();
        // Whatever happened: the others wait for us.
        together.wait();
        together.wait();
        preferred?;
        let Some(mut connection) = connection? else {
            return (0..self.requests).map(|_| self.open()?.ask(self.request)).collect();
        };
        if self.way == Way::Pipelined {
            return connection.ask_ahead(self.request, self.requests);
        }
        (0..self.requests).map(|_| connection.ask(self.request)).collect()
    }

    fn open(self) -> Result<Connection> {
        match self.way {
            Way::Tls => Connection::encrypted(self.address),
            _ => Connection::plain(self.address),
        }
    }
}

/// A client's connection.
struct Connection {
    input: BufReader<Box<dyn Read>>,
    output: Box<dyn Write>,
    /// What encrypts.
    process: Option<Child>,
}

impl Connection {
    fn plain(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT)).context("cannot set SO_RCVTIMEO")?;
        let other = stream.try_clone().context("cannot duplicate a socket")?;
        let input = BufReader::new(Box::new(stream) as Box<dyn Read>);
        Ok(Self { input, output: Box::new(other), process: None })
    }

    fn encrypted(address: SocketAddr) -> Result<Self> {
        let mut process = Command::new("openssl")
            .args(["s_client", "-brief", "-ign_eof", "-connect", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start openssl")?;
        let (output, input) = (process.stdin.take(), process.stdout.take());
        let (output, input) = output.zip(input).context("openssl has no pipes")?;
        let messages = process.stderr.as_mut().context("openssl has no pipes")?;
        let mut lines = BufReader::new(messages).lines();
        let established = |line: &io::Result<String>| {
            line.as_ref().is_ok_and(|line| line.contains("CONNECTION ESTABLISHED"))
        };
        ensure!(lines.any(|line| established(&line)), "openssl cannot connect to {address}");
        // A request that came together with the end of the handshake could not be told from it.
        thread::sleep(Duration::from_millis(50));
        let input = BufReader::new(Box::new(input) as Box<dyn Read>);
        Ok(Self { input, output: Box::new(output), process: Some(process) })
    }

    fn ask(&mut self, request: &[u8]) -> Result<Duration> {
        let began = Instant::now();
        self.output.write_all(request).context("cannot send a request")?;
        self.first_octet()?;
        let took = began.elapsed();
        self.rest()?;
        Ok(took)
    }

    fn ask_ahead(&mut self, request: &[u8], requests: usize) -> Result<Vec<Duration>> {
        let (mut times, mut under_way) = (Vec::new(), VecDeque::new());
        while times.len() < requests {
            while under_way.len() < DEPTH.min(requests - times.len()) {
                under_way.push_back(Instant::now());
                self.output.write_all(request).context("cannot send a request")?;
            }
            self.first_octet()?;
            times.extend(under_way.pop_front().map(|began| began.elapsed()));
            self.rest()?;
        }
        Ok(times)
    }

    fn first_octet(&mut self) -> Result<()> {
        let begun = self.input.fill_buf().context("a request was not answered")?;
        ensure!(!begun.is_empty(), "a connection was closed before a request was answered");
        Ok(())
    }

    /// Reads an answer to its end.
    fn rest(&mut self) -> Result<()> {
        let mut length = None;
        let mut lines = self.input.by_ref().lines();
        loop {
            let line = lines.next().context("an answer has no end")?.context("cannot read it")?;
            match line.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().ok();
                }
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let length: u64 = length.context("an answer does not say how long it is")?;
        let read = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())
            .context("cannot read an answer")?;
        ensure!(read == length, "an answer was cut short");
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
