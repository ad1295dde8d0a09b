//! When what is counted is compared with what the kernel lists.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, Interval, interval_at};

use crate::{steering::Steering, tracking::Reconciler};

/// What is wrong twice in a row is set right, so nothing is wrong for longer than three times that.
const EVERY: Duration = Duration::from_secs(10);

/// The comparison, again and again.
pub(super) struct Audit {
    due: Interval,
    reconciler: Reconciler,
}

impl Audit {
    pub fn start() -> Self {
        let due = interval_at(Instant::now() + EVERY, EVERY);
        Self { due, reconciler: Reconciler::default() }
    }

    /// Waits until it is time.
    pub async fn due(&mut self) {
        self.due.tick().await;
    }

    /// Compares once.
    pub fn look(&mut self, steering: &Steering) -> Result<()> {
        self.reconciler.look(steering).map(|_| ())
    }
}
