//! What `run` does while its workers work: tells of them, and listens to signals.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{
    audit::Audit,
    growth::Growth,
    hangup::{Asked, Start},
    warn_if_unpinned,
};
use crate::{
    console::Console,
    group::Group,
    render,
    supervisor::{Notice, Supervisor},
};

/// The signals that are waited for. From now on none of them ends this process by itself.
pub struct Wanted {
    interrupt: Signals,
    terminate: Signals,
    hangup: Signals,
    start: Start,
}

/// How long all have to end where one never got ready.
const GIVING_UP: Duration = Duration::from_secs(5);

/// What came.
pub(super) enum Came {
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGHUP.
    Hangup,
}

impl Wanted {
    /// Begins to wait for them.
    ///
    /// # Errors
    /// Where they cannot be waited for.
    pub fn listen() -> Result<Self> {
        let start = Start::look();
        let open = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
            hangup: open(SignalKind::hangup())?,
            start,
        })
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) -> Came {
        tokio::select! {
            _ = self.interrupt.recv() => Came::Stop,
            _ = self.terminate.recv() => Came::Stop,
            _ = self.hangup.recv() => Came::Hangup,
        }
    }
}

/// Until stopped; returns the summary. `ready` where all workers are from the beginning.
///
/// # Errors
/// Where workers cannot be had at all, or were not given the time to end.
pub async fn supervise(
    mut supervisor: Supervisor,
    mut wanted: Wanted,
    console: &mut Console,
    group: &Group,
    mut ready: bool,
) -> Result<Option<String>> {
    let mut tick = tokio::time::interval(console.interval());
    let mut growth = Growth::of(supervisor.steering()?.group()?.tuning);
    let mut audit = Audit::start();
    let mut stopping = false;
    // Why workers cannot be had at all, and until when those there are may end.
    let (mut failed, mut until): (Option<String>, Option<Instant>) = (None, None);
    if ready {
        console.line(&listening(&mut supervisor, group)?);
    }
    loop {
        let asked = tokio::select! {
            notice = supervisor.next() => {
                match notice {
                    Ok(Notice::Line(line) | Notice::Back(_, line) | Notice::Died(line)) => {
                        console.line(&line);
                    }
                    Ok(Notice::Complaint(line)) => console.complain(&line),
                    Ok(Notice::AllReady) => {
                        ready = true;
                        console.line(&listening(&mut supervisor, group)?);
                        warn_if_unpinned(supervisor.steering()?)?;
                    }
                    Ok(Notice::NeverReady(_)) if stopping => {}
                    Ok(Notice::NeverReady(how)) => {
                        (failed, until) = (Some(how), Some(Instant::now() + GIVING_UP));
                        stopping = true;
                        supervisor.stop();
                    }
                    Ok(Notice::AllGone) => break,
                    Err(error) if !ready => return Err(error),
                    // The others serve on.
                    Err(error) => tracing::error!("{error:#}"),
                }
                Asked::Nothing
            }
            _ = tick.tick(), if ready && !stopping => {
                match supervisor.steering()?.snapshot() {
                    Ok(snapshot) => console.update(snapshot),
                    Err(error) => tracing::error!("{error:#}"),
                }
                Asked::Nothing
            }
            () = growth.due(), if ready && !stopping => {
                if let Err(error) = supervisor.steering()?.grow() {
                    tracing::error!("{error:#}");
                }
                Asked::Nothing
            }
            () = audit.due(), if ready && !stopping => {
                if let Err(error) = audit.look(supervisor.steering()?) {
                    tracing::error!("{error:#}");
                }
                Asked::Nothing
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                until = None;
                supervisor.signal(Signal::KILL);
                Asked::Nothing
            }
            came = wanted.next() => match came {
                Came::Stop => Asked::Stop,
                // One that goes away may send several.
                Came::Hangup if stopping => Asked::Nothing,
                Came::Hangup => wanted.start.hangup(supervisor.is_asked_to_reload()?),
            },
        };
        match asked {
            Asked::Stop if stopping => {
                let running = supervisor.running();
                supervisor.signal(Signal::KILL);
                bail!("stopped at once; {running} workers were killed with requests in flight");
            }
            Asked::Stop => {
                stopping = true;
                console.finish();
                console
                    .line("stopping: requests in flight are finished first; again to stop at once");
                supervisor.stop();
            }
            Asked::Reload => supervisor.reload(),
            Asked::Nothing => {}
        }
    }
    if let Some(how) = failed {
        bail!("{how}");
    }
    Ok(ready
        .then(|| supervisor.steering()?.snapshot())
        .transpose()?
        .map(|s| render::table::summary(&s)))
}

fn listening(supervisor: &mut Supervisor, group: &Group) -> Result<String> {
    let workers = supervisor.running();
    let steering = supervisor.steering()?;
    let (name, policy) = (steering.name(), steering.group()?.policy.name());
    let address = group.identity.address;
    Ok(format!("listening on {address}, policy {policy}, {workers} workers, group {name}"))
}
