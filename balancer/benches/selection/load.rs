//! The load: connections as cheap as they come, so that the choice is as large a part of them as
//! it can be; or with one small request and its answer each.
//!
//! A thread on each CPU opens a batch of connections, resetting each, then accepts what has come,
//! reads that it was reset, and closes it. So the program runs on that CPU (loopback delivers where
//! it was sent), nobody is woken, no queue grows beyond the batches, and no TIME_WAIT keeps a port.
//! All packets of a connection come from one CPU, in order: none arrives when the connection is
//! gone already, and runs the program for nothing.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use balancer_steering::affinity;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read, write},
    net::accept,
};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

/// Small beside a listener's queue (`net.core.somaxconn`), even if those of all CPUs hit the same.
const BATCH: u64 = 32;

/// Longer than any queue takes to be served, and than a lost SYN takes to be sent again.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Who serves, and whom to ask.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// Where the listeners listen.
    pub address: SocketAddr,
    /// They do not block.
    pub listeners: &'a [Socket],
    /// What each connection is for.
    pub work: Work,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Nothing: it is opened, reset and accepted, without a byte of data.
    Nothing,
    /// One small request, and its answer.
    Request,
}

impl Load<'_> {
    /// Opens, resets and accepts that many connections, from a thread on each of the CPUs, and
    /// says how long it took.
    ///
    /// # Errors
    /// Returns an error if a connection fails, or is never accepted.
    pub fn run(self, cpus: &[usize], connections: u64) -> Result<Duration> {
        let left = AtomicU64::new(connections);
        let together = Barrier::new(cpus.len());
        let mut accepted = 0;
        let mut began = Vec::new();
        let mut ended = Vec::new();
        thread::scope(|scope| {
            let (left, together) = (&left, &together);
            let spawn = |&cpu| scope.spawn(move || self.run_on(cpu, left, together));
            let threads: Vec<_> = cpus.iter().map(spawn).collect();
            for thread in threads {
                let turn = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
                accepted += turn.accepted;
                began.push(turn.began);
                ended.push(turn.ended);
            }
            anyhow::Ok(())
        })?;
        self.accept_the_rest(connections - accepted)?;
        let times = began.into_iter().min().zip(ended.into_iter().max());
        let (first, last) = times.context("there is no CPU to run on")?;
        Ok(last - first)
    }

    fn run_on(self, cpu: usize, left: &AtomicU64, together: &Barrier) -> Result<Turn> {
        let pinned = affinity::pin_to(cpu);
        // Whatever happened: the others wait for us.
        together.wait();
        pinned?;
        let mut accepted = 0;
        let began = Instant::now();
        while let Some(batch) = take_batch(left) {
            let clients = (0..batch).map(|_| self.begin()).collect::<Result<Vec<_>>>()?;
            accepted += self.accept_all()?;
            clients.into_iter().flatten().try_for_each(receive)?;
        }
        Ok(Turn { accepted, began, ended: Instant::now() })
    }

    /// Connects; one that has nothing to ask resets at once.
    fn begin(self) -> Result<Option<Socket>> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)
            .context("cannot make a socket")?;
        socket.set_linger(Some(Duration::ZERO)).context("cannot set SO_LINGER")?;
        socket.connect(&self.address.into()).context("cannot connect")?;
        if self.work == Work::Nothing {
            return Ok(None);
        }
        write(&socket, REQUEST).context("cannot ask")?;
        Ok(Some(socket))
    }

    /// Accepts and closes all that wait now.
    fn accept_all(self) -> Result<u64> {
        let mut accepted = 0;
        for listener in self.listeners {
            loop {
                match accept(listener) {
                    Ok(connection) => {
                        self.serve(&connection)?;
                        accepted += 1;
                    }
                    Err(Errno::AGAIN) => break,
                    Err(error) => return Err(error).context("cannot accept"),
                }
            }
        }
        Ok(accepted)
    }

    fn serve(self, connection: &OwnedFd) -> Result<()> {
        let mut request = [0; REQUEST.len()];
        // Without one, it waits for the reset: to close before it would send a FIN, the answer to which
        // could come late, and from the wrong CPU.
        let asked = read(connection, &mut request);
        if self.work == Work::Nothing {
            ensure!(asked == Err(Errno::CONNRESET), "a connection was not reset");
            return Ok(());
        }
        ensure!(asked == Ok(REQUEST.len()), "a request was cut short: {asked:?}");
        write(connection, ANSWER).context("cannot answer")?;
        Ok(())
    }

    fn accept_the_rest(self, mut connections: u64) -> Result<()> {
        while connections > 0 {
            let mut polled: Vec<_> =
                self.listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)).collect();
            if poll(&mut polled, Some(&PATIENCE)).context("cannot poll")? == 0 {
                bail!("{connections} connections were never accepted");
            }
            connections = connections.saturating_sub(self.accept_all()?);
        }
        Ok(())
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

/// Takes the answer, and resets: so that no TIME_WAIT keeps a port.
fn receive(client: Socket) -> Result<()> {
    let answered = read(&client, &mut [0; ANSWER.len()]);
    ensure!(answered == Ok(ANSWER.len()), "an answer was cut short: {answered:?}");
    Ok(())
}

/// What a thread did.
struct Turn {
    accepted: u64,
    began: Instant,
    ended: Instant,
}

/// Batches come from one stock, so that no CPU is left alone at the end.
fn take_batch(left: &AtomicU64) -> Option<u64> {
    let take = |stock: u64| (stock > 0).then(|| stock.saturating_sub(BATCH));
    let stock = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
    Some(stock.min(BATCH))
}
