//! The load: connections as cheap as they come, so that the choice is as large a part of them as
//! it can be.
//!
//! A thread on each CPU opens a batch of connections, resetting each, then accepts what has come,
//! reads that it was reset, and closes it. So the program runs on that CPU (loopback delivers where
//! it was sent), nobody is woken, no queue grows beyond the batches, and no TIME_WAIT keeps a port.
//! All packets of a connection come from one CPU, in order: none arrives when the connection is
//! gone already, and runs the program for nothing.

use std::{
    net::SocketAddr,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use balancer::machine;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read},
    net::accept,
};
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
}

impl Load<'_> {
    /// Opens, resets and accepts that many connections, from a thread on each of the CPUs, and
    /// says how long it took.
    ///
    /// # Errors
    /// Where a connection fails, or is never accepted.
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
        let pinned = machine::pin_to(cpu);
        // Whatever happened: the others wait for us.
        together.wait();
        pinned?;
        let mut accepted = 0;
        let began = Instant::now();
        while let Some(batch) = take_batch(left) {
            for _ in 0..batch {
                self.connect_and_reset()?;
            }
            accepted += self.accept_all()?;
        }
        Ok(Turn { accepted, began, ended: Instant::now() })
    }

    fn connect_and_reset(self) -> Result<()> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)
            .context("cannot make a socket")?;
        socket.set_linger(Some(Duration::ZERO)).context("cannot set SO_LINGER")?;
        socket.connect(&self.address.into()).context("cannot connect")
    }

    /// Accepts and closes all that wait now.
    fn accept_all(self) -> Result<u64> {
        let mut accepted = 0;
        for listener in self.listeners {
            loop {
                match accept(listener) {
                    Ok(connection) => {
                        // Waits for the reset: to close before it would send a FIN, the answer to
                        // which could come late, and from the wrong CPU.
                        let reset = read(&connection, &mut [0]);
                        ensure!(reset == Err(Errno::CONNRESET), "a connection was not reset");
                        accepted += 1;
                    }
                    Err(Errno::AGAIN) => break,
                    Err(error) => return Err(error).context("cannot accept"),
                }
            }
        }
        Ok(accepted)
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
