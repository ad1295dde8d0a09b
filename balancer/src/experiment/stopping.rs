//! The signals that end an experiment in order: SIGINT, SIGTERM and SIGHUP.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// From now on none of them ends this process by itself.
pub struct Stopping([Signal; 3]);

impl Stopping {
    /// Begins to wait for them, in a runtime of tokio.
    pub fn listen() -> Result<Self> {
        let open = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self([
            open(SignalKind::interrupt())?,
            open(SignalKind::terminate())?,
            open(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one.
    pub async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
    }
}
