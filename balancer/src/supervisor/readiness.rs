//! How a process that was started is known to accept connections, within a time.

use std::time::Duration;

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::events::Event;
use balancer_steering::{
    discovery::{self, NotBound},
    group::GroupIdentity,
    process::Identity,
};

/// How often a command that binds for itself is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// How a process shows that it accepts connections.
#[derive(Debug)]
pub enum Sign {
    /// By its first line.
    FirstLine,
    /// By running: its socket listens already.
    Runs,
    /// By having bound there.
    Bound(GroupIdentity),
}

/// What is waited for.
#[derive(Debug)]
pub struct Readiness {
    /// What it shows.
    pub sign: Sign,
    /// Whether it also notifies.
    pub notifies: bool,
    /// How long it may take.
    pub within: Duration,
    /// How long it must have lived besides, where all that is known is that it runs.
    pub settle: Duration,
}

/// What a process says itself.
#[derive(Debug, Default)]
pub struct Said {
    /// It printed a line.
    pub line: Notify,
    /// It notified of being ready.
    pub ready: Notify,
}

impl Readiness {
    /// Waits until a process is ready, or is known not to get so.
    pub async fn wait(self, process: Identity, said: &Said) -> Event {
        let Self { sign, notifies, within, settle } = self;
        let deadline = Instant::now() + within;
        let place = if let Sign::Bound(place) = sign { Some(place) } else { None };
        let begun = match sign {
            Sign::FirstLine => timeout_at(deadline, said.line.notified()).await,
            Sign::Runs | Sign::Bound(_) => Ok(()),
        };
        if begun.is_err() {
            return Event::NotReady(format!("has not begun to serve within {within:?}"));
        }
        if notifies && timeout_at(deadline, said.ready.notified()).await.is_err() {
            return Event::NotReady(format!(
                "has not sent READY=1 to its NOTIFY_SOCKET within {within:?}; give it more time \
                 with --ready-timeout, or leave --ready notify out if it does not speak sd_notify"
            ));
        }
        if let Some(place) = place {
            return bound(process, place, deadline, within).await;
        }
        sleep(settle).await;
        Event::Ready
    }
}

/// Waits until a process has bound.
async fn bound(
    process: Identity,
    place: GroupIdentity,
    deadline: Instant,
    within: Duration,
) -> Event {
    loop {
        match discovery::bound_by(process.pid, &place) {
            Err(NotBound::NotYet(_)) if Instant::now() < deadline => sleep(INTERVAL).await,
            Ok(bound) => return Event::Bound(bound),
            Err(NotBound::Unfit(why)) => {
                return Event::NotReady(format!("cannot be steered on {place}: {why}"));
            }
            Err(why @ NotBound::NotYet(_)) => {
                return Event::NotReady(format!(
                    "should listen on {place} with SO_REUSEPORT within {within:?}, but {why}; \
                     give --listen what it binds, or more time with --ready-timeout"
                ));
            }
        }
    }
}
