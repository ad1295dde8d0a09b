//! When a group is worth a look: the kernel says so, or where it cannot, often enough.

use std::{future::pending, time::Duration};

use anyhow::{Context as _, Result};
use balancer_steering::{
    group::Protocol,
    steering::{Listens, Steering},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior, interval},
};

/// How often a group is looked at whose sockets the kernel does not tell of.
pub const POLLING: Duration = Duration::from_millis(50);

/// Where triggers come from.
pub enum Triggers {
    /// Nowhere yet.
    None,
    /// The kernel's own events: one for each `listen`, when the socket can be found.
    Events(Box<AsyncFd<Listens>>),
    /// The clock.
    Polling(Interval),
}

impl Triggers {
    /// The kernel's events for TCP, a poll for UDP, which has none; the first occasion is at once.
    ///
    /// # Errors
    /// Returns an error if the events cannot be waited for.
    pub fn start(protocol: Protocol, steering: &Steering) -> Result<Self> {
        if protocol == Protocol::Udp {
            return Ok(Self::polling());
        }
        match Listens::start(steering) {
            Ok(listens) => {
                // SAFETY: `Listens` owns its descriptor and shows the same one for as long as it lives.
                let listens =
                    unsafe { AsyncFd::register_with_interest(listens, Interest::READABLE) };
                Ok(Self::Events(Box::new(listens.context("cannot wait for the kernel's events")?)))
            }
            Err(error) => {
                let every = POLLING.as_millis();
                tracing::warn!("{error:#}; instead, new sockets are looked for every {every} ms");
                Ok(Self::polling())
            }
        }
    }

    fn polling() -> Self {
        let mut interval = interval(POLLING);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Polling(interval)
    }

    /// Waits for the next; may be dropped half-way.
    ///
    /// # Errors
    /// Returns an error if the events cannot be waited for.
    pub async fn next(&mut self) -> Result<()> {
        match self {
            Self::None => pending().await,
            Self::Events(listens) => loop {
                let mut guard =
                    listens.readable_mut().await.context("cannot wait for the kernel's events")?;
                let told = guard.get_inner_mut().take();
                guard.clear_ready();
                if told {
                    return Ok(());
                }
            },
            Self::Polling(interval) => {
                interval.tick().await;
                Ok(())
            }
        }
    }
}
