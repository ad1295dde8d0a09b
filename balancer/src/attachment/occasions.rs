//! When a group is worth a look: the kernel says so, or where it cannot, often enough.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    group::Protocol,
    steering::{Listens, Steering},
};

/// How often a group is looked at whose sockets the kernel does not tell of.
pub const POLLING: Duration = Duration::from_millis(50);

/// When to look after an event, from it on. The kernel tells before the socket can be found, a few
/// microseconds as a rule; and who opened it may hand it to another and end.
const LOOKS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(8),
    Duration::from_millis(32),
    Duration::from_millis(128),
    Duration::from_millis(512),
];

/// Processes that are remembered while a series of looks is not over.
const MANY: usize = 64;

/// Where occasions come from.
pub enum Occasions {
    /// The kernel's own events.
    Events(Box<Events>),
    /// The clock.
    Polling(Interval),
}

/// A series of looks after each event.
pub struct Events {
    listens: AsyncFd<Listens>,
    since: Instant,
    looks: usize,
    processes: Vec<u32>,
}

impl Occasions {
    /// The kernel's events for TCP, a poll for UDP, which has none; the first occasion is at once.
    ///
    /// # Errors
    /// Where the events cannot be waited for.
    pub fn start(protocol: Protocol, steering: &Steering) -> Result<Self> {
        if protocol == Protocol::Udp {
            return Ok(Self::polling());
        }
        match Listens::start(steering) {
            Ok(listens) => Ok(Self::Events(Box::new(Events::new(listens)?))),
            Err(error) => {
                let every = POLLING.as_millis();
                tracing::warn!("{error:#}; so the group is looked at every {every} ms instead");
                Ok(Self::polling())
            }
        }
    }

    fn polling() -> Self {
        let mut interval = interval(POLLING);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Polling(interval)
    }

    /// Waits for the next, and tells the processes that are likely to hold what is new; may be
    /// dropped half-way.
    ///
    /// # Errors
    /// Where the events cannot be waited for.
    pub async fn next(&mut self) -> Result<Vec<u32>> {
        match self {
            Self::Events(events) => events.next().await,
            Self::Polling(interval) => {
                interval.tick().await;
                Ok(Vec::new())
            }
        }
    }
}

impl Events {
    fn new(listens: Listens) -> Result<Self> {
        // SAFETY: `Listens` owns its descriptor and shows the same one for as long as it lives.
        let listens = unsafe { AsyncFd::register_with_interest(listens, Interest::READABLE) }
            .context("cannot wait for the kernel's events")?;
        Ok(Self { listens, since: Instant::now(), looks: 0, processes: Vec::new() })
    }

    async fn next(&mut self) -> Result<Vec<u32>> {
        loop {
            tokio::select! {
                guard = self.listens.readable_mut() => {
                    let mut guard = guard.context("cannot wait for the kernel's events")?;
                    let told = guard.get_inner_mut().take();
                    guard.clear_ready();
                    self.begin_again(told);
                }
                () = due(self.since, self.looks) => {
                    self.looks += 1;
                    return Ok(self.processes.clone());
                }
            }
        }
    }

    fn begin_again(&mut self, told: Vec<u32>) {
        if told.is_empty() {
            return;
        }
        if self.looks == LOOKS.len() || self.processes.len() > MANY {
            self.processes.clear();
        }
        self.processes.extend(told);
        self.processes.sort_unstable();
        self.processes.dedup();
        (self.since, self.looks) = (Instant::now(), 0);
    }
}

/// Until the next look of a series; for ever after its last.
async fn due(since: Instant, looks: usize) {
    match LOOKS.get(looks) {
        Some(&after) => sleep_until(since + after).await,
        None => std::future::pending().await,
    }
}
