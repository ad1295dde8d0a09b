//! More workers, or fewer: those that are added start as others do, those that are taken away finish their
//! connections as those that a reload replaces.

use std::{cmp::Ordering, time::Duration};

use anyhow::{Context as _, Result, bail};
use balancer_common::record::SlotState;
use balancer_steering::{affinity, steering::Member, weight::Weight};

use super::{
    Notice, Supervisor,
    agenda::Duty,
    worker::{Worker, WorkerPlan},
};
use crate::descriptors;

impl Supervisor {
    /// Is to keep so many workers from now on, once nothing else is under way.
    pub fn scale(&mut self, count: usize) {
        self.scale = Some(count);
        self.scale_if_asked();
    }

    /// Begins to, if that was asked for and nothing is in its way.
    pub(super) fn scale_if_asked(&mut self) {
        if self.stopping {
            self.scale = None;
        }
        if self.reload.is_none()
            && self.unready == 0
            && let Some(count) = self.scale.take()
        {
            self.schedule(Duty::Scale(count), Duration::ZERO);
        }
    }

    /// Under the group's lock. Those who wait for it are told how many there are to be.
    pub(super) fn try_scale(&mut self, count: usize) {
        if self.stopping || self.failed {
            return;
        }
        // One may have begun since.
        if self.reload.is_some() {
            self.scale.get_or_insert(count);
            return;
        }
        let before = self.wanted;
        let scaled = match count.cmp(&before) {
            Ordering::Greater => self.grow(count),
            Ordering::Equal => Ok(()),
            Ordering::Less => self.shrink(count),
        };
        match scaled {
            Ok(()) => {
                self.wanted = count;
                let line = format!("{count} workers from now on, {before} before");
                self.notices.push_back(Notice::Line(line));
            }
            Err(error) => {
                let line = format!("{before} workers stay, and not {count}: {error:#}");
                self.notices.push_back(Notice::Complaint(line));
            }
        }
        let [workers, heard] =
            [self.wanted, count].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        self.tell(move |state| {
            state.workers = workers;
            // Somebody may want something else by now.
            state.wanted = state.wanted.filter(|&wanted| wanted != heard);
        });
    }

    fn grow(&mut self, count: usize) -> Result<()> {
        // A socket that is to be handed over listens before its worker runs.
        if !self.template.job.binds() {
            self.check_steered()?;
        }
        descriptors::raise(count, self.template.job.descriptors())?;
        while self.workers.len() < count {
            let plan = self.plan_of_another()?;
            self.workers.push(Worker { first: false, ..Worker::new(plan) });
        }
        for index in self.wanted..count {
            // Nothing is left of who had its number before, but perhaps a process that finishes.
            let plan = WorkerPlan { weight: Weight::ONE, ..self.workers[index].plan.clone() };
            self.workers[index] = Worker { first: false, joins: true, ..Worker::new(plan) };
            self.schedule(Duty::Start(index), Duration::ZERO);
        }
        Ok(())
    }

    /// On the next CPU, if each has one of its own.
    fn plan_of_another(&self) -> Result<WorkerPlan> {
        let mut plan = self.template.clone();
        if plan.cpu.is_some() {
            let cpus = affinity::cpus()?;
            plan.cpu = cpus.get(self.workers.len() % cpus.len().max(1)).copied();
        }
        Ok(plan)
    }

    fn shrink(&mut self, count: usize) -> Result<()> {
        self.check_steered()?;
        let surplus = count..self.wanted;
        let slots = |worker: &Worker| worker.running.as_ref().filter(|r| r.ready)?.slot;
        let stay: Vec<u32> = self.workers[..count].iter().filter_map(slots).collect();
        let is_live = |member: &Member| member.state == SlotState::Live;
        let members = self.steering()?.members()?;
        if !members.iter().any(|member| stay.contains(&member.slot) && is_live(member)) {
            bail!(
                "nobody of the first {count} gets connections; resume one, or wait until one is ready"
            );
        }
        let slots: Vec<u32> = self.workers[surplus.clone()].iter().filter_map(slots).collect();
        self.seats.retire(&slots).context("their slots cannot be taken out")?;
        self.agenda.forget(|duty| matches!(duty, Duty::Start(index) if surplus.contains(index)));
        for index in surplus {
            match self.workers[index].running.take() {
                Some(running) if running.ready => self.let_finish(index, running),
                // It has had no connection.
                Some(running) => self.dismiss(index, running),
                None => {}
            }
        }
        Ok(())
    }
}
