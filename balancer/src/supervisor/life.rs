//! How workers live and die: what is made of the events of their processes.

use std::{mem, process::ExitStatus, time::Duration};

use anyhow::Result;

use super::{
    Notice, Supervisor,
    agenda::Duty,
    events::{Event, Told},
    worker::{self, EARLY, Running},
};
use balancer_steering::{discovery::Bound, process::Identity};

impl Supervisor {
    pub(super) fn hear(&mut self, told: Told) {
        let Told { index, process, event } = told;
        match event {
            // Whoever was starting has been told to end.
            Event::Ready | Event::Bound(_) | Event::NotReady(_) if self.stopping => {}
            Event::Line(line, _room) => {
                let line = self.workers[index].sign(index, line);
                self.notices.push_back(Notice::Line(line));
            }
            Event::Complaint(line, _room) => self.has_complained(index, process, line),
            Event::Ready => self.became_ready(index, process),
            Event::Bound(bound) => {
                self.schedule(Duty::Seat(index, process, bound), Duration::ZERO);
            }
            Event::NotReady(why) => self.is_not_ready(index, process, &why),
            Event::Drained(time, outcome) => self.has_drained(process, time, outcome),
            Event::Overdue => self.is_overdue(process),
            Event::Exited(status) => self.has_exited(index, process, status),
        }
    }

    /// A process that is, will be or was a worker.
    fn process(&mut self, index: usize, who: Identity) -> Option<&mut Running> {
        let worker = &mut self.workers[index];
        let own = worker.running.iter_mut().chain(&mut worker.successor);
        let mut all = own.chain(self.leaving.iter_mut().map(|(_, running)| running));
        all.find(|running| running.process.identity == who)
    }

    /// A worker, if that process is it.
    fn worker(&mut self, index: usize, who: Identity) -> Option<&mut Running> {
        self.workers[index].running.as_mut().filter(|running| running.process.identity == who)
    }

    fn has_complained(&mut self, index: usize, who: Identity, line: String) {
        if let Some(running) = self.process(index, who) {
            running.complain(&line);
        }
        let line = self.workers[index].sign(index, line);
        self.notices.push_back(Notice::Complaint(line));
    }

    fn became_ready(&mut self, index: usize, who: Identity) {
        let duty = if self.is_successor(index, who) {
            Duty::HandOver(index, who)
        } else {
            Duty::Open(index, who)
        };
        self.schedule(duty, Duration::ZERO);
    }

    pub(super) fn open(&mut self, index: usize, who: Identity) -> Result<()> {
        let last = self.unready <= 1;
        // It may have died since it said that it is ready.
        let Some(slot) = self.worker(index, who).and_then(|running| running.slot) else {
            return Ok(());
        };
        self.seats.open(slot, last)?;
        if let Some(running) = self.worker(index, who) {
            running.ready = true;
        }
        match self.unready {
            0 => {
                let how = if mem::take(&mut self.workers[index].joins) {
                    "has joined"
                } else {
                    "is back"
                };
                let line = format!("worker {index} {how} as PID {} in slot {slot}", who.pid);
                self.notices.push_back(Notice::Back(index, line));
            }
            1 => {
                self.unready = 0;
                self.notices.push_back(Notice::AllReady);
            }
            _ => self.unready -= 1,
        }
        Ok(())
    }

    pub(super) fn try_seat(&mut self, index: usize, who: Identity, bound: &Bound) {
        let weight = self.workers[index].plan.weight;
        if self.worker(index, who).is_none() && !self.is_successor(index, who) {
            return;
        }
        match self.seats.adopt(bound, weight) {
            Ok(slot) => {
                if let Some(running) = self.process(index, who) {
                    running.slot = Some(slot);
                }
                self.became_ready(index, who);
            }
            Err(error) => self.is_not_ready(index, who, &format!("cannot be steered: {error:#}")),
        }
    }

    fn is_not_ready(&mut self, index: usize, who: Identity, why: &str) {
        let line = format!("worker {index} (PID {}) {why}", who.pid);
        if self.is_successor(index, who) {
            return self.give_up_reload(line);
        }
        if self.worker(index, who).is_none() {
            return;
        }
        let worker = &mut self.workers[index];
        if worker.first || self.unready > 0 {
            return self.fail(line);
        }
        let Some(running) = worker.running.take() else { return };
        // The next one may do better.
        if worker.successor.is_none() {
            match worker.again_in(Duration::ZERO) {
                Some(delay) => self.schedule(Duty::Start(index), delay),
                None => self.fail(too_often(&line)),
            }
        }
        self.notices.push_back(Notice::Complaint(line));
        self.dismiss(index, running);
    }

    fn has_exited(&mut self, index: usize, who: Identity, status: Option<ExitStatus>) {
        if self.worker(index, who).is_none() {
            return self.other_has_exited(index, who, status);
        }
        let worker = &mut self.workers[index];
        let Some(running) = worker.running.take() else { return };
        let (first, replaced) = (mem::take(&mut worker.first), mem::take(&mut worker.replaced));
        if let Some(slot) = running.slot {
            self.vacate(slot, Some(index));
        }
        if self.stopping {
            return;
        }
        if replaced {
            return self.schedule(Duty::Start(index), Duration::ZERO);
        }
        let worker = &mut self.workers[index];
        let lived = running.since.elapsed();
        let never_ready = self.unready > 0 && !running.ready;
        if never_ready || first && worker.ended_early(lived, status) {
            return self.fail(running.never_ready(index, status));
        }
        if self.unready > 0 {
            // It had been counted off already; its successor will be again.
            self.unready += 1;
        }
        let next = if worker.successor.is_some() {
            "its successor is starting already".to_owned()
        } else if self.take_back(index, running.slot) {
            "its predecessor serves on".to_owned()
        } else if let Some(delay) = self.workers[index].again_in(lived) {
            self.schedule(Duty::Start(index), delay);
            format!("starting it again in {} ms", delay.as_millis())
        } else {
            let died = format!("worker {index} (PID {}) {}", running.pid(), worker::ending(status));
            return self.fail(too_often(&died));
        };
        let slot = running.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
        let (pid, how) = (running.pid(), worker::ending(status));
        let line = format!("worker {index} (PID {pid}{slot}) {how}; {next}");
        self.notices.push_back(Notice::Died(line));
        let waits = |duty: &Duty| matches!(duty, Duty::Succeed(other) if *other == index);
        if self.workers[index].successor.is_none()
            && self.has_turn(index)
            && !self.agenda.has(waits)
        {
            self.give_up_reload(running.never_ready(index, status));
        }
    }

    /// Takes a slot out of use. Its socket is closed by now, so programs choose it no more.
    pub(super) fn vacate(&mut self, slot: u32, heir: Option<usize>) {
        self.schedule(Duty::Vacate { slot, heir }, Duration::ZERO);
        // Several that die at once are left out in one step; and at the end nobody comes after them.
        if !self.stopping {
            self.agenda.forget(|duty| matches!(duty, Duty::Publish));
            self.schedule(Duty::Publish, Duration::ZERO);
        }
    }

    pub(super) fn try_start(&mut self, index: usize) {
        let worker = &self.workers[index];
        if worker.is_kept() || self.stopping || self.failed || index >= self.wanted {
            return;
        }
        let first = worker.first && self.unready > 0;
        let settle = if worker.joins { EARLY } else { Duration::ZERO };
        match self.start_process(index, settle) {
            Ok(running) => self.workers[index].running = Some(running),
            Err(error) if first => self.fail(format!("{error:#}")),
            Err(error) => {
                let delay = self.workers[index].backoff.after(Duration::ZERO);
                self.schedule(Duty::Start(index), delay);
                let delay = delay.as_millis();
                self.notices.push_back(Notice::Died(format!(
                    "worker {index} cannot be started: {error:#}; trying again in {delay} ms"
                )));
            }
        }
    }
}

fn too_often(what: &str) -> String {
    format!(
        "{what}; it was started again as often as --max-restarts allows, so all workers are told to end"
    )
}
