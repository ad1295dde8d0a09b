//! How workers live and die: what is made of the events of their processes.

use std::{process::ExitStatus, time::Duration};

use anyhow::Result;
use tokio::time::Instant;

use super::{
    Notice, Supervisor,
    events::{Event, Told},
    worker::{self, Running},
};
use crate::{discovery::Bound, process::Identity};

impl Supervisor {
    pub(super) fn hear(&mut self, told: Told) -> Result<()> {
        let Told { index, process, event } = told;
        match event {
            // Whoever was starting has been told to end.
            Event::Ready | Event::Bound(_) | Event::NotReady(_) | Event::Unstartable(_)
                if self.stopping => {}
            Event::Line(line, _room) => {
                let line = self.workers[index].sign(index, line);
                self.notices.push_back(Notice::Line(line));
            }
            Event::Complaint(line, _room) => self.has_complained(index, process, line),
            Event::Ready => self.became_ready(index, process)?,
            Event::Bound(bound) => self.has_bound(index, process, bound)?,
            Event::NotReady(why) => self.is_not_ready(index, process, &why),
            Event::Unstartable(why) => self.is_unstartable(index, process, why),
            Event::Drained(time, outcome) => self.has_drained(process, time, outcome),
            Event::Overdue => self.is_overdue(process),
            Event::Exited(status) => self.has_exited(index, process, status)?,
        }
        Ok(())
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

    fn became_ready(&mut self, index: usize, who: Identity) -> Result<()> {
        if self.is_successor(index, who) {
            self.hand_over(index);
            return Ok(());
        }
        // It may have died since it said so.
        let Some(running) = self.worker(index, who) else { return Ok(()) };
        let Some(slot) = running.slot else { return Ok(()) };
        running.ready = true;
        self.seats.open(slot, self.unready <= 1)?;
        match self.unready {
            0 => {
                let line = format!("worker {index} is back as PID {} in slot {slot}", who.pid);
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

    fn has_bound(&mut self, index: usize, who: Identity, bound: Bound) -> Result<()> {
        let weight = self.workers[index].plan.weight;
        if self.worker(index, who).is_none() && !self.is_successor(index, who) {
            return Ok(());
        }
        match self.seats.adopt(bound, weight) {
            Ok(slot) => {
                if let Some(running) = self.process(index, who) {
                    running.slot = Some(slot);
                }
                self.became_ready(index, who)
            }
            Err(error) => {
                self.is_not_ready(index, who, &format!("cannot be steered: {error:#}"));
                Ok(())
            }
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
            return self.notices.push_back(Notice::NeverReady(line));
        }
        let Some(running) = worker.running.take() else { return };
        self.notices.push_back(Notice::Complaint(line));
        self.dismiss(index, running);
        // The next one may do better.
        if self.workers[index].successor.is_none() {
            let delay = self.workers[index].backoff.after(Duration::ZERO);
            self.schedule(index, delay);
        }
    }

    fn is_unstartable(&mut self, index: usize, who: Identity, why: String) {
        if self.is_successor(index, who) {
            self.give_up_reload(why);
        } else if self.workers[index].first {
            self.notices.push_back(Notice::NeverReady(why));
        } else {
            self.has_complained(index, who, why);
        }
    }

    fn has_exited(
        &mut self,
        index: usize,
        who: Identity,
        status: Option<ExitStatus>,
    ) -> Result<()> {
        if self.worker(index, who).is_none() {
            return self.other_has_exited(index, who, status);
        }
        let worker = &mut self.workers[index];
        let Some(running) = worker.running.take() else { return Ok(()) };
        // When stopping: the kernel has emptied the slot, and nobody will come after it.
        if let Some(slot) = running.slot
            && let Some(weight) = self.seats.vacate(slot, !self.stopping)?
        {
            worker.plan.weight = weight;
        }
        let first = std::mem::take(&mut worker.first);
        if self.stopping {
            return Ok(());
        }
        if std::mem::take(&mut worker.replaced) {
            self.try_start(index);
            return Ok(());
        }
        let lived = running.since.elapsed();
        let never_ready = self.unready > 0 && !running.ready;
        if never_ready || first && worker.ended_early(lived, status) {
            self.notices.push_back(Notice::NeverReady(running.never_ready(index, status)));
            return Ok(());
        }
        if self.unready > 0 {
            // It had been counted off already; its successor will be again.
            self.unready += 1;
        }
        let slot = running.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
        let how =
            format!("worker {index} (PID {}{slot}) {}", running.pid(), worker::ending(status));
        let next = if self.workers[index].successor.is_some() {
            "its successor is starting already".to_owned()
        } else if self.take_back(index, running.slot) {
            "its predecessor serves on".to_owned()
        } else {
            let delay = self.workers[index].backoff.after(lived);
            self.schedule(index, delay);
            format!("starting it again in {} ms", delay.as_millis())
        };
        self.notices.push_back(Notice::Died(format!("{how}; {next}")));
        if self.workers[index].successor.is_none() && self.has_turn(index) {
            self.give_up_reload(running.never_ready(index, status));
        }
        Ok(())
    }

    pub(super) fn schedule(&mut self, index: usize, delay: Duration) {
        let due = Instant::now() + delay;
        let place = self.restarts.partition_point(|(other, _)| *other <= due);
        self.restarts.insert(place, (due, index));
    }

    pub(super) fn restart_due(&mut self) {
        if let Some((_, index)) = self.restarts.pop_front() {
            self.try_start(index);
        }
    }

    fn try_start(&mut self, index: usize) {
        let Err(error) = self.start_worker(index) else { return };
        let delay = self.workers[index].backoff.after(Duration::ZERO);
        self.schedule(index, delay);
        let delay = delay.as_millis();
        self.notices.push_back(Notice::Died(format!(
            "worker {index} cannot be started: {error:#}; trying again in {delay} ms"
        )));
    }
}
