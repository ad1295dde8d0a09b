//! The agent of workers that it has started.

use std::time::Duration;

use anyhow::{Result, anyhow};
use balancer_steering::{
    agent_record::AgentState, group::GroupSpec, snapshot::Snapshot, steering::Steering,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use super::{
    Flow, Kind, Signals,
    hangup::{Asked, Start},
    signals::Came,
    warn_if_unpinned,
};
use crate::{
    console::Console,
    render,
    supervisor::{Ending, Notice, Supervisor},
};

/// How long all have to end if one never got ready.
const GIVING_UP: Duration = Duration::from_secs(5);

/// Its workers, and how far they are.
pub struct Spawned {
    supervisor: Supervisor,
    group: GroupSpec,
    start: Start,
    /// All serve.
    ready: bool,
    stopping: bool,
    given_back: bool,
    /// Why workers cannot be had at all.
    failed: Option<String>,
    /// How long they may take to end.
    ending: Ending,
    /// Until when those there are may end.
    until: Option<Instant>,
}

impl Spawned {
    /// Of workers that are to get ready, or serve since another agent: then `ready`.
    pub fn new(
        supervisor: Supervisor,
        group: GroupSpec,
        signals: &Signals,
        ready: bool,
        ending: Ending,
    ) -> Self {
        let start = signals.start;
        let (stopping, given_back, failed, until) = (false, false, None, None);
        Self { supervisor, group, start, ready, stopping, given_back, failed, ending, until }
    }

    /// Says that all workers serve, if they do.
    pub fn announce(&mut self, console: &Console) {
        if !self.ready {
            return;
        }
        let said = self.listening().and_then(|line| {
            console.line(&line);
            warn_if_unpinned(self.supervisor.steering()?)
        });
        if let Err(error) = said {
            tracing::error!("{error:#}");
        }
    }

    fn listening(&mut self) -> Result<String> {
        let workers = self.supervisor.running();
        let steering = self.supervisor.steering()?;
        let (name, policy) = (steering.name(), steering.group()?.policy.name());
        let address = self.group.identity.address;
        Ok(format!("listening on {address}, policy {policy}, {workers} workers, group {name}"))
    }

    fn hear(&mut self, notice: Notice, console: &Console) -> Flow<Option<String>> {
        match notice {
            Notice::Line(line) | Notice::Back(_, line) | Notice::Died(line) => console.line(&line),
            Notice::Complaint(line) => console.complain(&line),
            Notice::AllReady => {
                self.ready = true;
                self.announce(console);
            }
            Notice::NeverReady(_) if self.stopping => {}
            Notice::NeverReady(how) => {
                self.failed = Some(how);
                // Those that serve may finish.
                let time = if self.ready { self.ending.kill_after } else { Some(GIVING_UP) };
                self.until = time.map(|time| Instant::now() + time);
                self.stopping = true;
                self.supervisor.stop();
            }
            Notice::AllGone => return Flow::Break(self.end()),
        }
        Flow::Continue(())
    }

    /// What commands have noted in the group.
    fn noted(&mut self) -> AgentState {
        let state = self.supervisor.steering().and_then(|steering| Ok(steering.agent_state()?));
        state.unwrap_or_else(|error| {
            tracing::error!("{error:#}");
            AgentState::default()
        })
    }

    /// The summary, if all workers did serve.
    fn end(&mut self) -> Result<Option<String>> {
        if let Some(how) = self.failed.take() {
            return Err(anyhow!(how));
        }
        if !self.ready {
            return Ok(None);
        }
        Ok(Some(render::table::summary(&self.supervisor.steering()?.snapshot()?)))
    }
}

impl Kind for Spawned {
    type End = Option<String>;

    fn steering(&mut self) -> Result<&mut Steering> {
        self.supervisor.steering()
    }

    fn is_up(&self) -> bool {
        self.ready && !self.stopping && !self.given_back
    }

    async fn next(&mut self, console: &mut Console) -> Flow<Self::End> {
        let until = self.until.unwrap_or_else(Instant::now);
        tokio::select! {
            notice = self.supervisor.next() => self.hear(notice, console),
            () = sleep_until(until), if self.until.is_some() => {
                self.until = None;
                if let Ending { signal, kill_after: Some(time) } = self.ending
                    && self.ready
                {
                    let running = self.supervisor.running();
                    console.complain(&format!(
                        "{running} workers have not ended within {time:?} of {signal}, and are killed"
                    ));
                }
                self.supervisor.signal(Signal::KILL);
                Flow::Continue(())
            }
        }
    }

    fn looked(&mut self, _: &Snapshot, _: &Console) -> Flow<Self::End> {
        Flow::Continue(())
    }

    fn given_back(&mut self, console: &Console) -> Flow<Self::End> {
        self.given_back = true;
        let (address, typed) = (self.group.identity.address, self.group.identity.typed());
        console.complain(&format!(
            "{address} was given back to the kernel's hash by another command; its workers are kept \
             running, and `balancer attach {typed}` steers them again"
        ));
        Flow::Continue(())
    }

    fn signalled(&mut self, came: Came, console: &mut Console) -> Flow<Self::End> {
        let asked = match came {
            Came::Stop => Asked::Stop,
            // A terminal that goes away may send several.
            Came::Hangup if self.stopping => Asked::Nothing,
            Came::Hangup => {
                let asked = self.noted().is_asked();
                self.start.hangup(asked)
            }
            Came::Noted => {
                if let Some(wanted) = self.noted().wanted {
                    self.supervisor.scale(wanted as usize);
                }
                Asked::Nothing
            }
        };
        match asked {
            Asked::Stop if self.stopping => {
                let running = self.supervisor.running();
                self.supervisor.signal(Signal::KILL);
                return Flow::Break(Err(anyhow!(
                    "stopped at once; {running} workers were killed with requests in flight"
                )));
            }
            Asked::Stop => {
                self.stopping = true;
                console.finish();
                console
                    .line("stopping: requests in flight are finished first; again to stop at once");
                self.until = self.ending.kill_after.map(|time| Instant::now() + time);
                self.supervisor.stop();
            }
            Asked::Reload => self.supervisor.reload(),
            Asked::Nothing => {}
        }
        Flow::Continue(())
    }
}
