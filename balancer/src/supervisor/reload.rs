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
    agenda::Duty,
    binary::Binary,
    events::{Event, Teller},
    worker::{EARLY, Running, WorkerPlan},
};
use crate::idle_grace::IdleGrace;
use balancer_steering::{
    agent_record::AgentState,
    process::Identity,
    steering::{Remaining, Watch},
};

/// How often is looked what a predecessor has left.
const INTERVAL: Duration = Duration::from_millis(10);

/// A reload that is under way.
pub(super) struct Reload {
    /// Workers that are to be replaced when others have been.
    waiting: VecDeque<usize>,
    /// Those whose turn it is.
    turns: Vec<Turn>,
    /// How many that may be.
    parallel: usize,
    /// How many were replaced.
    replaced: usize,
    /// What the built-in worker was before.
    before: Option<Binary>,
}

/// A worker that is being replaced.
struct Turn {
    index: usize,
    /// The predecessor that is waited for.
    predecessor: Option<Identity>,
}

impl Reload {
    fn turn(&mut self, index: usize) -> Option<&mut Turn> {
        self.turns.iter_mut().find(|turn| turn.index == index)
    }
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

    /// Begins one that was asked for, where nothing is in its way.
    pub(super) fn reload_if_asked(&mut self) {
        if self.stopping || self.reload.is_some() || self.unready > 0 || !mem::take(&mut self.again)
        {
            return;
        }
        let reload = Reload {
            waiting: (0..self.wanted).collect(),
            turns: Vec::new(),
            parallel: self.parallel(),
            replaced: 0,
            before: None,
        };
        self.reload = Some(reload);
        match self.begin() {
            Ok(()) => self.next_turns(),
            Err(error) => self.give_up_reload(format!("{error:#}")),
        }
    }

    /// How many workers `balancer reload` wants replaced at a time; a signal, one.
    fn parallel(&mut self) -> usize {
        let asked = self.steering().and_then(|steering| Ok(steering.agent_state()?));
        let parallel = asked.ok().filter(AgentState::is_asked).map(|state| state.parallel);
        parallel.and_then(|parallel| usize::try_from(parallel).ok()).unwrap_or(1).max(1)
    }

    fn begin(&mut self) -> Result<()> {
        self.tell(AgentState::begin);
        self.check_steered()?;
        if self.workers.iter().any(|worker| !worker.plan.job.is_foreign()) {
            let binary = self.binary.anew();
            let binary = binary.with_context(|| {
                format!("cannot open {}, to run what is there now", self.binary.place().display())
            })?;
            let before = mem::replace(&mut self.binary, binary);
            self.reload.as_mut().context("no reload is under way")?.before = Some(before);
        }
        let parallel = self.reload.as_ref().map_or(1, |reload| reload.parallel);
        let how = match parallel {
            1 => "one after another".to_owned(),
            parallel => format!("{parallel} at a time"),
        };
        let line = format!("reloading {} workers, {how}", self.wanted);
        self.notices.push_back(Notice::Line(line));
        Ok(())
    }

    /// That balancer chooses: else nobody can be replaced without losing connections.
    pub(super) fn check_steered(&mut self) -> Result<()> {
        let steering = self.steering()?;
        let (policy, name) = (steering.group()?.policy, steering.name());
        if !steering.is_pinned() {
            bail!("{name} was given back to the kernel's hash");
        }
        if !policy.steers() {
            bail!(
                "under the policy {} balancer does not choose, so workers cannot come or go without \
                 losing connections; switch first, for example: balancer policy hash --group {name}",
                policy.name()
            );
        }
        Ok(())
    }

    /// Whether it is a worker's turn to be replaced.
    pub(super) fn has_turn(&self, index: usize) -> bool {
        let mut turns = self.reload.iter().flat_map(|reload| &reload.turns);
        turns.any(|turn| turn.index == index)
    }

    /// Gives as many workers their turn as may have it.
    fn next_turns(&mut self) {
        while let Some(reload) = &mut self.reload {
            if reload.turns.len() >= reload.parallel {
                return;
            }
            let Some(index) = reload.waiting.pop_front() else {
                if reload.turns.is_empty() {
                    self.finish_reload();
                }
                return;
            };
            reload.turns.push(Turn { index, predecessor: None });
            self.schedule(Duty::Succeed(index), Duration::ZERO);
        }
    }

    pub(super) fn try_succeed(&mut self, index: usize) {
        if !self.has_turn(index) || self.workers[index].successor.is_some() {
            return;
        }
        match self.check_steered().and_then(|()| self.start_process(index, EARLY)) {
            Ok(successor) => {
                self.workers[index].successor = Some(successor);
                // It may be dead, and wait to be started again.
                self.agenda.forget(|duty| matches!(duty, Duty::Start(other) if *other == index));
            }
            Err(error) => {
                self.give_up_reload(format!("worker {index} cannot be started anew: {error:#}"));
            }
        }
    }

    pub(super) fn is_successor(&self, index: usize, who: Identity) -> bool {
        self.workers[index].successor.as_ref().is_some_and(|s| s.process.identity == who)
    }

    /// Lets a successor, which is ready, have the connections.
    pub(super) fn hand_over(&mut self, index: usize, who: Identity) {
        // It may have died since it said that it is ready.
        if !self.is_successor(index, who) {
            return;
        }
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
        if let Some(turn) = self.reload.as_mut().and_then(|reload| reload.turn(index)) {
            turn.predecessor = Some(predecessor.process.identity);
        }
        self.let_finish(index, predecessor);
        Ok(())
    }

    /// Waits for the connections of a process whose slot is drained.
    pub(super) fn let_finish(&mut self, index: usize, mut running: Running) {
        running.drains += 1;
        let (process, time) = (running.process.identity, running.drains);
        let watch = self.seats.watch(running.slot);
        self.leaving.push((index, running));
        let WorkerPlan { drain_within: within, idle_grace, .. } = self.workers[index].plan;
        let teller = Teller { index, process, sender: self.sender.clone() };
        tokio::spawn(async move {
            let left = async { left_after(within, idle_grace, watch?).await };
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
        let WorkerPlan { drain_within: within, idle_grace, .. } = self.workers[index].plan;
        let left = match outcome {
            Ok(remaining) if idle_grace.lets_go(remaining) => None,
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
        let plan = &self.workers[index].plan;
        running.dismissed = true;
        running.process.ask_to_end(plan.ending.signal);
        let within = plan.ending.kill_after.unwrap_or(plan.drain_within);
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
        let WorkerPlan { ending, drain_within, .. } = &self.workers[*index].plan;
        let (signal, within) = (ending.signal, ending.kill_after.unwrap_or(*drain_within));
        running.process.signal(Signal::KILL);
        self.notices.push_back(Notice::Complaint(format!(
            "worker {index} (PID {}) has not ended within {within:?} of {signal}, and is killed",
            who.pid
        )));
    }

    /// A process that is not a worker has ended: one on its way out, or a successor.
    pub(super) fn other_has_exited(
        &mut self,
        index: usize,
        who: Identity,
        status: Option<ExitStatus>,
    ) {
        let place = self.leaving.iter().position(|(_, r)| r.process.identity == who);
        let running = if let Some(place) = place {
            self.leaving.remove(place).1
        } else if self.is_successor(index, who)
            && let Some(successor) = self.workers[index].successor.take()
        {
            successor
        } else {
            return;
        };
        if let Some(slot) = running.slot {
            self.vacate(slot, None);
        }
        if place.is_none() {
            self.give_up_reload(running.never_ready(index, status));
        } else if self.predecessor(index) == Some(who) {
            self.has_replaced(index);
        }
    }

    fn has_replaced(&mut self, index: usize) {
        let Some(reload) = &mut self.reload else { return };
        reload.turns.retain(|turn| turn.index != index);
        reload.replaced += 1;
        let (total, replaced) = (self.wanted, reload.replaced);
        self.tell(move |state| state.replaced = u32::try_from(replaced).unwrap_or(u32::MAX));
        let place = self.places().find(|(other, ..)| *other == index);
        if let Some((_, slot, process)) = place {
            let line = format!(
                "worker {index} is PID {} in slot {slot} now ({replaced} of {total} reloaded)",
                process.pid
            );
            self.notices.push_back(Notice::Line(line));
        }
        self.next_turns();
    }

    /// Who had the place of a worker whose turn it is, and is waited for.
    fn predecessor(&self, index: usize) -> Option<Identity> {
        let mut turns = self.reload.iter().flat_map(|reload| &reload.turns);
        turns.find(|turn| turn.index == index)?.predecessor
    }

    fn finish_reload(&mut self) {
        self.reload = None;
        self.tell(|state| state.end(None));
        self.notices.push_back(Notice::Line("reloaded".to_owned()));
    }

    /// Gives back to a predecessor what its successor, which has ended, had for a moment. False where
    /// it was told to end already.
    pub(super) fn take_back(&mut self, index: usize, successor: Option<u32>) -> bool {
        let who = self.predecessor(index);
        let finishes = |(_, r): &(usize, Running)| Some(r.process.identity) == who && !r.dismissed;
        let place = self.leaving.iter().position(finishes);
        let Some(place) = place.filter(|_| self.has_turn(index)) else { return false };
        let (_, predecessor) = self.leaving.remove(place);
        if let Some(from) = predecessor.slot {
            self.schedule(Duty::GiveBack { index, from, to: successor }, Duration::ZERO);
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
        let replaced = reload.replaced;
        for Turn { index, .. } in reload.turns {
            let successor = self.workers[index].successor.take();
            if !self.workers[index].is_kept() && !self.agenda.starts(index) && !self.stopping {
                self.schedule(Duty::Start(index), Duration::ZERO);
            }
            if let Some(successor) = successor {
                self.dismiss(index, successor);
            }
        }
        let total = self.wanted;
        let line = format!("the reload stopped at {replaced} of {total} workers: {why}");
        self.notices.push_back(Notice::Complaint(line));
        self.tell(move |state| state.end(Some(why.clone())));
    }
}

/// What a worker has left once it has nothing or nothing but idle connections, or once the time is up.
async fn left_after(
    within: Duration,
    idle_grace: IdleGrace,
    mut watch: Watch,
) -> Result<Remaining> {
    let deadline = Instant::now() + within;
    loop {
        // It may have to wait for the kernel's listing.
        let look = move || (watch.look(), watch);
        let (remaining, again) = spawn_blocking(look).await.context("the look was cut short")?;
        let remaining = remaining?;
        if idle_grace.lets_go(remaining) || Instant::now() >= deadline {
            return Ok(remaining);
        }
        watch = again;
        sleep(INTERVAL).await;
    }
}
