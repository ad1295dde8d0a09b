//! When new workers are to get more.

use std::{future::pending, time::Duration};

use balancer_steering::{options::PolicyOptions, slow_start};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// More often is not worth it.
const OFTEN: Duration = Duration::from_millis(10);

/// The pace of a slow start.
pub(super) struct Growth(Option<Interval>);

impl Growth {
    pub fn of(options: PolicyOptions) -> Self {
        Self(options.slow_start.map(|time| {
            let mut steps = interval(slow_start::step(time).max(OFTEN));
            steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
            steps
        }))
    }

    /// Waits for the next step; for ever where nobody starts slowly.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(steps) => drop(steps.tick().await),
            None => pending().await,
        }
    }
}
