//! A reload: worker by worker, a successor is started, gets the connections once it is ready, and the
//! predecessor ends once it has none left. Where a successor does not get ready, nothing more is
//! replaced.

use std::{collections::VecDeque, mem, process::ExitStatus, time::Duration};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    Notice, Supervisor,
    binary::Binary,
    events::{Event, Teller},
    worker::{EARLY, Running},
};
use crate::{
    agent::AgentState,
    discovery::{self, Drained, Remaining},
    group::GroupIdentity,
    process::Identity,
};

/// How often the connections of a predecessor are counted.
const INTERVAL: Duration = Duration::from_millis(100);

/// A reload that is under way.
pub(super) struct Reload {
    /// Workers that are not replaced yet; it is the first one's turn.
    turns: VecDeque<usize>,
    /// What the built-in worker was before.
    before: Option<Binary>,
    /// The predecessor that is waited for.
    predecessor: Option<Identity>,
}

impl Supervisor {
    /// Replaces every worker by a new one, one after another. While that is under way, it is done
    /// once more afterwards: what shall be picked up may have come too late for those replaced.
    pub fn reload(&mut self) {
        if self.reload.is_some() {
            let line = "a reload is under way already; another begins when it has ended";
            self.notices.push_back(Notice::Line(line.to_owned()));
        }
        self.again = true;
        self.reload_if_asked();
    }

    /// Whether `balancer reload` has asked for one that has not begun.
    ///
    /// # Errors
    /// Where the group's state cannot be read.
    pub fn is_asked_to_reload(&mut self) -> Result<bool> {
        Ok(self.steering()?.agent_state()?.is_asked())
    }

    /// Begins one that was asked for, where nothing is in its way.
    pub(super) fn reload_if_asked(&mut self) {
        if self.stopping || self.reload.is_some() || self.unready > 0 || !mem::take(&mut self.again)
        {
            return;
        }
        let turns = (0..self.workers.len()).collect();
        self.reload = Some(Reload { turns, before: None, predecessor: None });
        match self.begin() {
            Ok(()) => self.next_turn(),
            Err(error) => self.give_up_reload(format!("{error:#}")),
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.seats.tell(AgentState::begin)?;
        self.check_steered()?;
        if self.workers.iter().any(|worker| !worker.plan.job.is_foreign()) {
            let binary = self.binary.anew();
            let binary = binary.with_context(|| {
                format!("cannot open {}, to run what is there now", self.binary.place().display())
            })?;
            let before = mem::replace(&mut self.binary, binary);
            self.reload.as_mut().context("no reload is under way")?.before = Some(before);
        }
        let line = format!("reloading {} workers, one after another", self.workers.len());
        self.notices.push_back(Notice::Line(line));
        Ok(())
    }

    /// That balancer chooses: else nobody can be replaced without losing connections.
    fn check_steered(&mut self) -> Result<()> {
        let steering = self.steering()?;
        let (policy, name) = (steering.group()?.policy, steering.name());
        if steering.lock()?.is_none() {
            bail!("{name} was given back to the kernel's hash");
        }
        if !policy.steers() {
            bail!(
                "under the policy {} balancer does not choose, so no worker can be replaced without \
                 losing connections; switch first, for example: balancer policy hash --group {name}",
                policy.name()
            );
        }
        Ok(())
    }

    /// The worker whose turn it is.
    fn turn(&self) -> Option<usize> {
        self.reload.as_ref()?.turns.front().copied()
    }

    pub(super) fn has_turn(&self, index: usize) -> bool {
        self.turn() == Some(index)
    }

    fn next_turn(&mut self) {
        let Some(index) = self.turn() else { return self.finish_reload() };
        // It may be dead, and wait to be started again.
        self.restarts.retain(|(_, other)| *other != index);
        match self.check_steered().and_then(|()| self.start_process(index, EARLY)) {
            Ok(successor) => self.workers[index].successor = Some(successor),
            Err(error) => {
                self.give_up_reload(format!("worker {index} cannot be started anew: {error:#}"));
            }
        }
    }

    pub(super) fn is_successor(&self, index: usize, who: Identity) -> bool {
        self.workers[index].successor.as_ref().is_some_and(|s| s.process.identity == who)
    }

    /// Lets a successor, which is ready, have the connections.
    pub(super) fn hand_over(&mut self, index: usize) {
        if let Err(error) = self.try_hand_over(index) {
            self.give_up_reload(format!("worker {index} cannot be replaced: {error:#}"));
        }
    }

    fn try_hand_over(&mut self, index: usize) -> Result<()> {
        self.check_steered()?;
        let worker = &mut self.workers[index];
        let from = worker.running.as_ref().and_then(|running| running.slot);
        let successor = worker.successor.as_mut().context("there is no successor")?;
        successor.ready = true;
        let to = successor.slot.context("its successor has no slot")?;
        self.seats.hand_over(from, to, worker.plan.weight)?;
        worker.first = false;
        let Some(predecessor) = mem::replace(&mut worker.running, worker.successor.take()) else {
            self.has_replaced(index);
            return Ok(());
        };
        if let Some(reload) = &mut self.reload {
            reload.predecessor = Some(predecessor.process.identity);
        }
        self.let_finish(index, predecessor);
        Ok(())
    }

    /// Waits for the connections of a process whose slot is drained.
    pub(super) fn let_finish(&mut self, index: usize, mut running: Running) {
        running.drains += 1;
        let (process, time) = (running.process.identity, running.drains);
        let drained = self.seats.drained(running.slot, process);
        self.leaving.push((index, running));
        let within = self.workers[index].plan.drain_within;
        let teller = Teller { index, process, sender: self.sender.clone() };
        tokio::spawn(async move {
            let left = async {
                let (group, drained) = drained?;
                left_after(within, group, drained).await
            };
            teller.tell(Event::Drained(time, left.await.map_err(|error| format!("{error:#}"))));
        });
    }

    pub(super) fn has_drained(
        &mut self,
        who: Identity,
        time: u32,
        outcome: Result<Remaining, String>,
    ) {
        let waited = |r: &Running| r.process.identity == who && r.drains == time;
        // It may have ended by itself, or have been taken back, and perhaps set aside once more.
        let place = self.leaving.iter().position(|(_, running)| waited(running));
        let Some(place) = place.filter(|_| !self.stopping) else { return };
        let (index, running) = self.leaving.remove(place);
        let within = self.workers[index].plan.drain_within;
        let left = match outcome {
            Ok(remaining) if remaining.is_nothing() => None,
            Ok(remaining) => Some(format!("has connections left after {within:?} ({remaining})")),
            Err(why) => Some(format!("may have connections left, which cannot be counted: {why}")),
        };
        if let Some(left) = left {
            let pid = running.pid();
            let line = format!("worker {index} (PID {pid}) {left}; it is told to end all the same");
            self.notices.push_back(Notice::Complaint(line));
        }
        self.dismiss(index, running);
    }

    /// Tells a process to end, which it is to do in time.
    pub(super) fn dismiss(&mut self, index: usize, mut running: Running) {
        let process = running.process.identity;
        running.dismissed = true;
        running.process.signal(Signal::TERM);
        let within = self.workers[index].plan.drain_within;
        self.leaving.push((index, running));
        let teller = Teller { index, process, sender: self.sender.clone() };
        tokio::spawn(async move {
            sleep(within).await;
            teller.tell(Event::Overdue);
        });
    }

    pub(super) fn is_overdue(&mut self, who: Identity) {
        let overdue = self.leaving.iter().find(|(_, r)| r.process.identity == who);
        // Once all stop, it may take as long as any.
        let Some((index, running)) = overdue.filter(|_| !self.stopping) else { return };
        let within = self.workers[*index].plan.drain_within;
        running.process.signal(Signal::KILL);
        self.notices.push_back(Notice::Complaint(format!(
            "worker {index} (PID {}) has not ended within {within:?} of SIGTERM, and is killed",
            who.pid
        )));
    }

    /// A process that is not a worker has ended: one on its way out, or a successor.
    pub(super) fn other_has_exited(
        &mut self,
        index: usize,
        who: Identity,
        status: Option<ExitStatus>,
    ) -> Result<()> {
        let place = self.leaving.iter().position(|(_, r)| r.process.identity == who);
        let running = if let Some(place) = place {
            self.leaving.remove(place).1
        } else if self.is_successor(index, who)
            && let Some(successor) = self.workers[index].successor.take()
        {
            successor
        } else {
            return Ok(());
        };
        if let Some(slot) = running.slot {
            self.seats.vacate(slot, !self.stopping)?;
        }
        if place.is_none() {
            self.give_up_reload(running.never_ready(index, status));
        } else if self.reload.as_ref().is_some_and(|reload| reload.predecessor == Some(who)) {
            self.has_replaced(index);
        }
        Ok(())
    }

    fn has_replaced(&mut self, index: usize) {
        let Some(reload) = &mut self.reload else { return };
        reload.predecessor = None;
        reload.turns.pop_front();
        let total = self.workers.len();
        let replaced = total - reload.turns.len();
        self.tell_reload(|state| state.replaced = u32::try_from(replaced).unwrap_or(u32::MAX));
        let place = self.places().find(|(other, ..)| *other == index);
        if let Some((_, slot, process)) = place {
            let line = format!(
                "worker {index} is PID {} in slot {slot} now ({replaced} of {total} reloaded)",
                process.pid
            );
            self.notices.push_back(Notice::Line(line));
        }
        self.next_turn();
    }

    fn finish_reload(&mut self) {
        self.reload = None;
        self.tell_reload(|state| state.end(None));
        self.notices.push_back(Notice::Line("reloaded".to_owned()));
    }

    /// Gives back to a predecessor what its successor, which has ended, had for a moment. False where
    /// it was told to end already.
    pub(super) fn take_back(&mut self, index: usize, successor: Option<u32>) -> bool {
        let who = self.reload.as_ref().and_then(|reload| reload.predecessor);
        let finishes = |(_, r): &(usize, Running)| Some(r.process.identity) == who && !r.dismissed;
        let place = self.leaving.iter().position(finishes);
        let Some(place) = place.filter(|_| self.has_turn(index)) else { return false };
        let (_, predecessor) = self.leaving.remove(place);
        let given = predecessor.slot.map_or(Ok(()), |slot| self.seats.give_back(slot, successor));
        if let Err(error) = given {
            tracing::error!("{error:#}");
        }
        self.workers[index].running = Some(predecessor);
        true
    }

    /// Ends a reload that cannot go on. Who is not replaced serves on.
    pub(super) fn give_up_reload(&mut self, why: String) {
        let Some(mut reload) = self.reload.take() else { return };
        if let Some(before) = reload.before.take() {
            self.binary = before;
        }
        let replaced = self.workers.len() - reload.turns.len();
        if let Some(index) = reload.turns.pop_front() {
            if let Some(successor) = self.workers[index].successor.take() {
                self.dismiss(index, successor);
            }
            let waits = self.restarts.iter().any(|(_, other)| *other == index);
            if self.workers[index].running.is_none() && !waits && !self.stopping {
                self.schedule(index, Duration::ZERO);
            }
        }
        let total = self.workers.len();
        let line = format!("the reload stopped at {replaced} of {total} workers: {why}");
        self.notices.push_back(Notice::Complaint(line));
        self.tell_reload(|state| state.end(Some(why)));
    }

    /// That it cannot be told is no reason to do otherwise.
    fn tell_reload(&mut self, change: impl FnOnce(&mut AgentState)) {
        if let Err(error) = self.seats.tell(change) {
            tracing::error!("{error:#}");
        }
    }
}

/// What a worker has left once it has nothing, or once the time is up.
async fn left_after(within: Duration, group: GroupIdentity, drained: Drained) -> Result<Remaining> {
    let deadline = Instant::now() + within;
    let mut arriving = None;
    loop {
        let (drained, known) = (drained.clone(), arriving.take());
        // It may walk through all of /proc.
        let look = move || -> Result<_> {
            let arriving = match known {
                Some(arriving) => arriving,
                None => discovery::arriving(&group, &drained)?,
            };
            Ok((discovery::remaining(&group, &drained, &arriving)?, arriving))
        };
        let (remaining, known) = spawn_blocking(look).await.context("the look was cut short")??;
        if remaining.is_nothing() || Instant::now() >= deadline {
            return Ok(remaining);
        }
        arriving = Some(known);
        sleep(INTERVAL).await;
    }
}
