//! Keeps a group's workers running: a socket, a slot and a process each; a new slot for one that
//! died, after a delay; all of them stopped in order at the end.

mod backoff;
mod child;
mod job;
mod seats;
mod worker;

use std::{collections::VecDeque, path::PathBuf, process::ExitStatus, time::Duration};

use anyhow::{Result, bail};
use rustix::process::Signal;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

use self::{
    child::{Event, WorkerProcess},
    worker::{Running, Worker},
};
pub use self::{job::Job, seats::Seats, worker::WorkerPlan};
use crate::{discovery::Bound, process::Identity, steering::Steering};

/// The workers of one group.
pub struct Supervisor {
    seats: Seats,
    bpffs: PathBuf,
    workers: Vec<Worker>,
    /// Restarts that are due, earliest first.
    restarts: VecDeque<(Instant, usize)>,
    /// Workers of the first start that are not ready yet: the table is published with the last.
    unready: usize,
    stopping: bool,
    sender: UnboundedSender<Event>,
    events: UnboundedReceiver<Event>,
}

/// What a supervisor has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// A line for the user.
    Line(String),
    /// A line for the user, even one who wants to hear of errors only.
    Complaint(String),
    /// Every worker of the first start accepts connections and is in the table.
    AllReady,
    /// A worker has a successor that accepts connections; its number, and a line for the user.
    Back(usize, String),
    /// A worker that nobody had told to is gone, or could not be started; a line for the user.
    Died(String),
    /// A worker never came up, and why: there is no point in trying again.
    NeverReady(String),
    /// After [`Supervisor::stop`]: all are gone.
    AllGone,
}

impl Supervisor {
    /// Starts a worker for each plan.
    ///
    /// # Errors
    /// Where a socket or process cannot be had.
    pub fn start(seats: Seats, bpffs: PathBuf, plans: Vec<WorkerPlan>) -> Result<Self> {
        let (sender, events) = unbounded_channel();
        let count = plans.len();
        let mut supervisor = Self {
            seats,
            bpffs,
            workers: plans.into_iter().map(Worker::new).collect(),
            restarts: VecDeque::new(),
            unready: count,
            stopping: false,
            sender,
            events,
        };
        for index in 0..count {
            supervisor.start_worker(index)?;
        }
        Ok(supervisor)
    }

    /// The group's steering.
    ///
    /// # Errors
    /// Where the workers share one socket.
    pub fn steering(&mut self) -> Result<&mut Steering> {
        match &mut self.seats {
            Seats::Steered { steering, .. } => Ok(steering),
            Seats::Shared(_) => bail!("workers that share a socket are not steered"),
        }
    }

    /// How many workers run.
    pub fn running(&self) -> usize {
        self.workers.iter().filter(|worker| worker.running.is_some()).count()
    }

    /// How many of them accept connections.
    pub fn ready(&self) -> usize {
        let running = self.workers.iter().filter_map(|worker| worker.running.as_ref());
        running.filter(|running| running.ready).count()
    }

    /// The workers that run: number, slot, process.
    pub fn places(&self) -> impl Iterator<Item = (usize, u32, Identity)> {
        self.workers.iter().enumerate().filter_map(|(index, worker)| {
            let running = worker.running.as_ref()?;
            Some((index, running.slot?, running.process.identity))
        })
    }

    fn start_worker(&mut self, index: usize) -> Result<()> {
        let Worker { plan, .. } = &self.workers[index];
        let cpu = plan.cpu;
        let mut seat =
            if plan.job.binds() { None } else { Some(self.seats.take(index, plan.weight)?) };
        let slot = seat.as_ref().map(|seat| seat.slot);
        // Kept from others until the worker is noted.
        let lock = seat.as_mut().and_then(|seat| seat.lock.take());
        let started = plan
            .job
            .launch(self.seats.group(), &self.bpffs, seat)
            .and_then(|launch| WorkerProcess::start(index, launch, cpu, &self.sender));
        match (started, slot) {
            (Ok(process), slot) => {
                if let Some(slot) = slot {
                    self.seats.occupy(slot, process.identity)?;
                }
                self.watch_bind(index, &process)?;
                self.workers[index].running = Some(Running::new(slot, process));
                Ok(())
            }
            (Err(error), None) => Err(error),
            (Err(error), Some(slot)) => {
                drop(lock);
                self.seats.vacate(slot, false)?;
                Err(error)
            }
        }
    }

    fn watch_bind(&self, index: usize, process: &WorkerProcess) -> Result<()> {
        let Job::SelfBind { within, .. } = self.workers[index].plan.job else { return Ok(()) };
        let (address, events) = (self.seats.address()?, self.sender.clone());
        tokio::spawn(job::watch_bind(index, process.identity, address, within, events));
        Ok(())
    }

    /// Waits for the next thing to tell, restarting workers meanwhile.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            if self.stopping && self.running() == 0 {
                return Ok(Notice::AllGone);
            }
            let due = self.restarts.front().map(|(due, _)| *due);
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = sleep_until(due) => None,
            };
            let notice = match event {
                Some(Event::Line(index, line)) => {
                    Some(Notice::Line(self.workers[index].sign(index, line)))
                }
                Some(Event::Complaint(index, line)) => {
                    Some(Notice::Complaint(self.workers[index].complain(index, line)))
                }
                Some(Event::Ready(index)) => self.became_ready(index)?,
                Some(Event::Bound(index, process, Ok(bound))) => {
                    self.has_bound(index, process, bound)?
                }
                Some(Event::Bound(index, process, Err(why))) => {
                    self.has_not_bound(index, process, &why)
                }
                Some(Event::Unstartable(index, why)) => self.unstartable(index, why),
                Some(Event::Exited(index, status)) => self.exited(index, status)?,
                None => self.restart_due()?,
            };
            if let Some(notice) = notice {
                return Ok(notice);
            }
        }
    }

    fn became_ready(&mut self, index: usize) -> Result<Option<Notice>> {
        // It may have died since it said so.
        let Some(running) = &mut self.workers[index].running else { return Ok(None) };
        let Some(slot) = running.slot else { return Ok(None) };
        running.ready = true;
        let pid = running.process.identity.pid;
        self.seats.open(slot, self.unready <= 1)?;
        Ok(match self.unready {
            0 => {
                let line = format!("worker {index} is back as PID {pid} in slot {slot}");
                Some(Notice::Back(index, line))
            }
            1 => {
                self.unready = 0;
                Some(Notice::AllReady)
            }
            _ => {
                self.unready -= 1;
                None
            }
        })
    }

    fn has_bound(&mut self, index: usize, who: Identity, bound: Bound) -> Result<Option<Notice>> {
        let Worker { plan, running, .. } = &mut self.workers[index];
        let Some(running) = running.as_mut().filter(|running| running.process.identity == who)
        else {
            return Ok(None);
        };
        match self.seats.adopt(bound, plan.weight) {
            Ok(slot) => running.slot = Some(slot),
            Err(error) => {
                return Ok(self.has_not_bound(
                    index,
                    who,
                    &format!("cannot be steered: {error:#}"),
                ));
            }
        }
        self.became_ready(index)
    }

    fn has_not_bound(&mut self, index: usize, who: Identity, why: &str) -> Option<Notice> {
        let worker = &self.workers[index];
        let running = worker.running.as_ref().filter(|r| r.process.identity == who)?;
        let line = format!("worker {index} (PID {}) {why}", who.pid);
        if worker.first {
            return Some(Notice::NeverReady(line));
        }
        // Its successor may do better.
        running.process.signal(Signal::TERM);
        Some(Notice::Complaint(line))
    }

    fn unstartable(&mut self, index: usize, why: String) -> Option<Notice> {
        let worker = &mut self.workers[index];
        if worker.first {
            return Some(Notice::NeverReady(why));
        }
        Some(Notice::Complaint(worker.complain(index, why)))
    }

    fn exited(&mut self, index: usize, status: ExitStatus) -> Result<Option<Notice>> {
        let worker = &mut self.workers[index];
        let Some(running) = worker.running.take() else { return Ok(None) };
        // When stopping: the kernel has emptied the slot, and nobody will come after it.
        if let Some(slot) = running.slot
            && let Some(weight) = self.seats.vacate(slot, !self.stopping)?
        {
            worker.plan.weight = weight;
        }
        let first = std::mem::take(&mut worker.first);
        if self.stopping {
            return Ok(None);
        }
        if std::mem::take(&mut worker.replaced) {
            return self.try_start(index);
        }
        let lived = running.since.elapsed();
        let never_ready = self.unready > 0 && !running.ready;
        if never_ready || first && worker.ended_early(lived, status) {
            return Ok(Some(Notice::NeverReady(running.never_ready(index, status))));
        }
        if self.unready > 0 {
            // It had been counted off already; its successor will be again.
            self.unready += 1;
        }
        let delay = worker.backoff.after(lived);
        self.schedule(index, delay);
        let slot = running.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
        Ok(Some(Notice::Died(format!(
            "worker {index} (PID {}{slot}) {}; starting it again in {} ms",
            running.process.identity.pid,
            worker::ending(status),
            delay.as_millis()
        ))))
    }

    fn schedule(&mut self, index: usize, delay: Duration) {
        let due = Instant::now() + delay;
        let place = self.restarts.partition_point(|(other, _)| *other <= due);
        self.restarts.insert(place, (due, index));
    }

    fn restart_due(&mut self) -> Result<Option<Notice>> {
        match self.restarts.pop_front() {
            Some((_, index)) => self.try_start(index),
            None => Ok(None),
        }
    }

    fn try_start(&mut self, index: usize) -> Result<Option<Notice>> {
        let Err(error) = self.start_worker(index) else { return Ok(None) };
        let delay = self.workers[index].backoff.after(Duration::ZERO);
        self.schedule(index, delay);
        let delay = delay.as_millis();
        Ok(Some(Notice::Died(format!(
            "worker {index} cannot be started: {error:#}; trying again in {delay} ms"
        ))))
    }

    /// Asks a worker to finish and end; another takes its place as soon as it has.
    pub fn replace(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        if let Some(running) = &worker.running {
            worker.replaced = true;
            running.process.signal(Signal::TERM);
        }
    }

    /// Sends a worker a signal, to nobody if it does not run.
    pub fn signal_worker(&self, index: usize, signal: Signal) {
        if let Some(running) = &self.workers[index].running {
            running.process.signal(signal);
        }
    }

    /// Asks all workers to finish and end; [`Supervisor::next`] tells when they have.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.restarts.clear();
        self.signal(Signal::TERM);
    }

    /// Sends all workers a signal.
    pub fn signal(&self, signal: Signal) {
        for running in self.workers.iter().filter_map(|worker| worker.running.as_ref()) {
            running.process.signal(signal);
        }
    }
}

impl Drop for Supervisor {
    /// Workers outlive a supervisor that is killed, but none that gives up.
    fn drop(&mut self) {
        self.signal(Signal::TERM);
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
