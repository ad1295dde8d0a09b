//! The signals that an agent waits for.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::hangup::Start;

/// From now on none of them ends this process by itself.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    noted: Signal,
    /// How the process was started, which says what a hangup means.
    pub(super) start: Start,
}

/// What came.
pub(crate) enum Came {
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGHUP.
    Hangup,
    /// SIGUSR1: a command has noted in the group what it asks for.
    Noted,
}

impl Signals {
    /// Begins to wait for them.
    ///
    /// # Errors
    /// If they cannot be waited for.
    pub fn listen() -> Result<Self> {
        let start = Start::look();
        let open = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hangup: open(SignalKind::hangup())?,
            noted: open(SignalKind::user_defined1())?,
            start,
        })
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) -> Came {
        tokio::select! {
            _ = self.interrupt.recv() => Came::Stop,
            _ = self.terminate.recv() => Came::Stop,
            _ = self.hangup.recv() => Came::Hangup,
            _ = self.noted.recv() => Came::Noted,
        }
    }
}
