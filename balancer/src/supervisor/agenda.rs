//! What is to be done in a group, and when. What must be done comes here before anything is tried that may
//! fail, and stays until it is done. All of it takes the group's lock, for which no agent waits: while
//! another process has it, what is due stays due.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Notice, Supervisor, backoff::Backoff};
use balancer_steering::{discovery::Bound, process::Identity};

/// How soon the lock is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Something to do.
#[derive(Debug)]
pub(super) enum Duty {
    /// Start the process of a worker.
    Start(usize),
    /// Start the process that takes a worker's place in a reload.
    Succeed(usize),
    /// Find a slot for the socket that a worker has bound.
    Seat(usize, Identity, Bound),
    /// Let a worker's slot be chosen.
    Open(usize, Identity),
    /// Let the slot of a successor be chosen in place of its predecessor's.
    HandOver(usize, Identity),
    /// Keep so many workers.
    Scale(usize),
    /// Let the slot of a worker be chosen again in place of that of its successor, which has ended.
    GiveBack { index: usize, from: u32, to: Option<u32> },
    /// Take a slot out of use; the next process of that worker, if it is given, has its weight.
    Vacate { slot: u32, heir: Option<usize> },
    /// Choose among those that are left.
    Publish,
    /// Write down what is to be told.
    Tell,
}

/// A duty, when it is due, and how often it has failed.
struct Entry {
    due: Instant,
    duty: Duty,
    failures: Backoff,
}

/// Duties, earliest first, and in the order in which they came.
#[derive(Default)]
pub(super) struct Agenda(VecDeque<Entry>);

impl Agenda {
    pub fn add(&mut self, duty: Duty, due: Instant) {
        self.insert(Entry { due, duty, failures: Backoff::default() });
    }

    fn insert(&mut self, entry: Entry) {
        let place = self.0.partition_point(|other| other.due <= entry.due);
        self.0.insert(place, entry);
    }

    /// When the first is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.front().map(|entry| entry.due)
    }

    /// Tries what has failed again, later each time; after how long.
    fn again(&mut self, mut entry: Entry, now: Instant) -> Duration {
        let delay = entry.failures.after(Duration::ZERO);
        entry.due = now + delay;
        self.insert(entry);
        delay
    }

    fn take_due(&mut self, now: Instant) -> Option<Entry> {
        self.0.front().filter(|entry| entry.due <= now)?;
        self.0.pop_front()
    }

    pub fn has(&self, wanted: impl Fn(&Duty) -> bool) -> bool {
        self.0.iter().any(|entry| wanted(&entry.duty))
    }

    pub fn forget(&mut self, unwanted: impl Fn(&Duty) -> bool) {
        self.0.retain(|entry| !unwanted(&entry.duty));
    }

    /// Whether a process of that worker is to be started.
    pub fn starts(&self, index: usize) -> bool {
        self.has(|duty| matches!(duty, Duty::Start(other) if *other == index))
    }
}

impl Supervisor {
    pub(super) fn schedule(&mut self, duty: Duty, delay: Duration) {
        self.agenda.add(duty, Instant::now() + delay);
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Option<Instant> {
        self.agenda.next().map(|due| due.max(self.rest.unwrap_or(due)))
    }

    /// Does what is due, if the group's lock can be had. Processes are started one at a time, so that what
    /// happens meanwhile is heard; true if more is due.
    pub(super) fn do_what_is_due(&mut self) -> bool {
        let is_due = |this: &Self| this.due().is_some_and(|due| due <= Instant::now());
        if !is_due(self) {
            return false;
        }
        let _lock = match self.seats.try_lock() {
            Ok(lock) => lock,
            Err(error) => {
                let line = self.hindrance.met(&error).map(Notice::Complaint);
                self.notices.extend(line);
                self.rest = Some(Instant::now() + AGAIN);
                return false;
            }
        };
        self.rest = None;
        self.hindrance.passed();
        while let Some(Entry { due, duty, failures }) = self.agenda.take_due(Instant::now()) {
            let starts = matches!(duty, Duty::Start(_) | Duty::Succeed(_));
            if let Err((duty, error)) = self.fulfil(duty) {
                let delay = self.agenda.again(Entry { due, duty, failures }, Instant::now());
                let line = format!("{error:#}; trying again in {} ms", delay.as_millis());
                self.notices.push_back(Notice::Complaint(line));
            }
            if starts {
                break;
            }
        }
        is_due(self)
    }

    /// Under the group's lock. Gives back what is to be tried again, and why.
    fn fulfil(&mut self, duty: Duty) -> Result<(), (Duty, anyhow::Error)> {
        let done = match &duty {
            Duty::Start(index) => {
                self.try_start(*index);
                Ok(())
            }
            Duty::Succeed(index) => {
                self.try_succeed(*index);
                Ok(())
            }
            Duty::Seat(index, who, bound) => {
                self.try_seat(*index, *who, bound);
                Ok(())
            }
            Duty::HandOver(index, who) => {
                self.hand_over(*index, *who);
                Ok(())
            }
            Duty::Scale(count) => {
                self.try_scale(*count);
                Ok(())
            }
            Duty::Open(index, who) => self.open(*index, *who),
            Duty::GiveBack { index, from, to } => match &self.workers[*index].running {
                Some(running) if running.slot == Some(*from) => self.seats.give_back(*from, *to),
                _ => Ok(()),
            },
            Duty::Vacate { slot, heir } => self.seats.vacate(*slot).map(|weight| {
                if let Some((index, weight)) = heir.zip(weight) {
                    self.workers[index].plan.weight = weight;
                }
            }),
            Duty::Publish => self.seats.publish(),
            Duty::Tell => self.seats.tell(&self.untold).map(|()| self.untold.clear()),
        };
        done.map_err(|error| (duty, error))
    }

    /// A worker that neither runs nor has a successor, and is not to be started: there must be none.
    pub(super) fn forgotten(&self) -> Option<usize> {
        let kept = |index: usize| self.workers[index].is_kept() || self.agenda.starts(index);
        (0..self.wanted).find(|&index| !self.stopping && !self.failed && !kept(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duties_are_done_when_they_are_due_and_in_their_order() {
        let now = Instant::now();
        let (soon, late) = (now + Duration::from_millis(1), now + Duration::from_secs(1));
        let mut agenda = Agenda::default();
        agenda.add(Duty::Start(2), late);
        agenda.add(Duty::Tell, now);
        agenda.add(Duty::Start(1), now);
        agenda.add(Duty::Publish, soon);
        assert_eq!(agenda.next(), Some(now));
        let done = std::iter::from_fn(|| agenda.take_due(soon)).map(|entry| entry.duty);
        let done: Vec<Duty> = done.collect();
        assert!(matches!(done[..], [Duty::Tell, Duty::Start(1), Duty::Publish]), "{done:?}");
        assert!(agenda.starts(2) && !agenda.starts(1));
        agenda.forget(|duty| matches!(duty, Duty::Start(_)));
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn what_fails_is_tried_again_later_each_time() {
        let mut now = Instant::now();
        let mut agenda = Agenda::default();
        agenda.add(Duty::Publish, now);
        let delays = [(); 4].map(|()| {
            let entry = agenda.take_due(now).unwrap();
            let delay = agenda.again(entry, now);
            assert!(agenda.take_due(now).is_none());
            now += delay;
            delay.as_millis()
        });
        assert_eq!(delays, [100, 200, 400, 800]);
    }
}
