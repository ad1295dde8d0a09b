//! Keeps a group's workers running: a socket, a slot and a process each; a new slot for one that
//! died, after a delay; all of them replaced one after another where that is asked for; all stopped
//! in order at the end.
//!
//! | step | module |
//! | --- | --- |
//! | what a worker runs, and what the built-in one is | `job`, `binary` |
//! | a process, started or taken over; what it tells | `child`, `events` |
//! | what it prints | `output` |
//! | when it is ready | `readiness`, `notify` |
//! | sockets and slots | `seats` |
//! | a worker, whichever process it is; how it lives and dies | `worker`, `life`, `backoff` |
//! | workers replaced one after another | `reload` |
//! | workers that an earlier agent has left | `inheritance` |

mod backoff;
mod binary;
mod child;
mod events;
mod inheritance;
mod job;
mod life;
mod notify;
mod output;
mod readiness;
mod reload;
mod seats;
mod worker;

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

use self::{
    binary::Binary,
    child::WorkerProcess,
    events::Told,
    job::Terms,
    reload::Reload,
    worker::{Running, Worker},
};
pub use self::{inheritance::Inheritance, job::Job, seats::Seats, worker::WorkerPlan};
use crate::{process::Identity, steering::Steering};

/// The workers of one group.
pub struct Supervisor {
    seats: Seats,
    bpffs: PathBuf,
    binary: Binary,
    workers: Vec<Worker>,
    /// Processes that are to end, and of which worker they were.
    leaving: Vec<(usize, Running)>,
    /// Restarts that are due, earliest first.
    restarts: VecDeque<(Instant, usize)>,
    /// Workers of the first start that are not ready yet: the table is published with the last.
    unready: usize,
    reload: Option<Reload>,
    /// One more reload was asked for.
    again: bool,
    stopping: bool,
    /// Not told yet.
    notices: VecDeque<Notice>,
    sender: UnboundedSender<Told>,
    events: UnboundedReceiver<Told>,
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
        let count = plans.len();
        let mut supervisor = Self::of(seats, bpffs, plans)?;
        supervisor.unready = count;
        for index in 0..count {
            supervisor.start_worker(index)?;
        }
        Ok(supervisor)
    }

    /// Of workers that do not run yet.
    fn of(mut seats: Seats, bpffs: PathBuf, plans: Vec<WorkerPlan>) -> Result<Self> {
        let (sender, events) = unbounded_channel();
        let count = u32::try_from(plans.len())?;
        seats.tell(|state| state.workers = count)?;
        Ok(Self {
            seats,
            bpffs,
            binary: Binary::own().context("cannot find the program that this is")?,
            workers: plans.into_iter().map(Worker::new).collect(),
            leaving: Vec::new(),
            restarts: VecDeque::new(),
            unready: 0,
            reload: None,
            again: false,
            stopping: false,
            notices: VecDeque::new(),
            sender,
            events,
        })
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

    /// Every process.
    fn processes(&self) -> impl Iterator<Item = &Running> {
        let workers = self.workers.iter().flat_map(|w| w.running.iter().chain(&w.successor));
        workers.chain(self.leaving.iter().map(|(_, running)| running))
    }

    /// How many workers there are to be.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How many processes run.
    pub fn running(&self) -> usize {
        self.processes().count()
    }

    /// How many workers accept connections.
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
        self.workers[index].running = Some(self.start_process(index, Duration::ZERO)?);
        Ok(())
    }

    /// Starts a process that is, or succeeds, a worker.
    fn start_process(&mut self, index: usize, settle: Duration) -> Result<Running> {
        let plan = &self.workers[index].plan;
        let binds = plan.job.binds();
        let mut seat = if binds { None } else { Some(self.seats.take(index, plan.weight)?) };
        let slot = seat.as_ref().map(|seat| seat.slot);
        // Kept from others until the worker is noted.
        let lock = seat.as_mut().and_then(|seat| seat.lock.take());
        let terms = Terms {
            group: self.seats.group(),
            bpffs: &self.bpffs,
            binary: &self.binary,
            address: self.seats.address().ok(),
            user: plan.user.as_ref(),
            within: plan.ready_within,
            settle,
        };
        let started = plan
            .job
            .launch(&terms, seat)
            .and_then(|launch| WorkerProcess::start(index, launch, plan.cpu, &self.sender));
        match (started, slot) {
            (Ok(process), slot) => {
                if let Some(slot) = slot {
                    self.seats.occupy(slot, process.identity)?;
                }
                Ok(Running::new(slot, process))
            }
            (Err(error), None) => Err(error),
            (Err(error), Some(slot)) => {
                drop(lock);
                self.seats.vacate(slot, false)?;
                Err(error)
            }
        }
    }

    /// Waits for the next thing to tell, restarting workers meanwhile.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Ok(notice);
            }
            if self.stopping && self.running() == 0 {
                return Ok(Notice::AllGone);
            }
            let due = self.restarts.front().map(|(due, _)| *due);
            tokio::select! {
                Some(told) = self.events.recv() => self.hear(told)?,
                () = sleep_until(due) => self.restart_due(),
            }
            self.reload_if_asked();
        }
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
        self.give_up_reload("balancer was told to stop".to_owned());
        self.signal(Signal::TERM);
    }

    /// Sends all processes a signal.
    pub fn signal(&self, signal: Signal) {
        self.processes().for_each(|running| running.process.signal(signal));
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
