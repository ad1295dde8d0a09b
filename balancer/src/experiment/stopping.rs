//! The signals that end an experiment in order: SIGINT, SIGTERM and SIGHUP.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

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

    /// Waits so long; true if one comes in that time, and then at once.
    pub async fn within(&mut self, time: Duration) -> bool {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            _ = hangup.recv() => true,
            () = sleep(time) => false,
        }
    }
}
