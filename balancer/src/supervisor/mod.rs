//! Keeps a group's workers running: a socket, a slot and a process each; a new slot for one that
//! died, after a delay; all of them replaced one after another where that is asked for; all stopped
//! in order at the end.
//!
//! | step | module |
//! | --- | --- |
//! | what a worker runs, and what the built-in one is | `job`, `binary` |
//! | a process, started or taken over; what it tells | `child`, `events` |
//! | what it prints | `pipe` |
//! | when it is ready | `readiness`, `notify` |
//! | sockets and slots | `seats` |
//! | a worker, whichever process it is; how it lives and dies | `worker`, `life`, `backoff`, `ending` |
//! | what is to be done, when, and under which lock | `agenda` |
//! | workers replaced one after another | `reload` |
//! | more workers, or fewer | `scale` |
//! | workers that an earlier agent has left | `inheritance` |

mod agenda;
mod backoff;
mod binary;
mod child;
mod ending;
mod events;
mod inheritance;
mod job;
mod life;
mod notify;
mod pipe;
mod readiness;
mod reload;
mod scale;
mod seats;
mod worker;

use std::{
    collections::VecDeque,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::yield_now,
};

use self::{
    agenda::{Agenda, Duty},
    binary::Binary,
    child::WorkerProcess,
    events::Told,
    job::Terms,
    reload::Reload,
    worker::{Running, Worker},
};
pub use self::{
    ending::{Ending, StopSignal},
    inheritance::Inheritance,
    job::Job,
    seats::Seats,
    worker::WorkerPlan,
};
use crate::hindrance::Hindrance;
use balancer_steering::{
    agent_record::AgentState, process::Identity, steering::Steering, weight::Weight,
};

/// The workers of one group.
pub struct Supervisor {
    seats: Seats,
    bpffs: PathBuf,
    binary: Binary,
    /// Those that are to be kept, and after them those that were, until they are wanted again.
    workers: Vec<Worker>,
    /// How many are to be kept.
    wanted: usize,
    /// What a worker that is added is asked for.
    template: WorkerPlan,
    /// Processes that are to end, and of which worker they were.
    leaving: Vec<(usize, Running)>,
    agenda: Agenda,
    /// The group's lock is not tried before.
    rest: Option<Instant>,
    hindrance: Hindrance,
    /// What those who wait for a reload are to be told, or who comes after this agent.
    untold: Vec<Change>,
    /// Workers of the first start that are not ready yet: the table is published with the last.
    unready: usize,
    reload: Option<Reload>,
    /// One more reload was asked for.
    again: bool,
    /// So many workers were asked for.
    scale: Option<usize>,
    stopping: bool,
    /// A worker never came up.
    failed: bool,
    /// Not told yet.
    notices: VecDeque<Notice>,
    sender: UnboundedSender<Told>,
    events: UnboundedReceiver<Told>,
}

/// A change of what an agent tells.
type Change = Box<dyn Fn(&mut AgentState)>;

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
    /// Is to start a worker for each plan.
    ///
    /// # Errors
    /// If the group's state cannot be changed.
    pub fn start(seats: Seats, bpffs: PathBuf, plans: Vec<WorkerPlan>) -> Result<Self> {
        let count = plans.len();
        let mut supervisor = Self::of(seats, bpffs, plans)?;
        supervisor.unready = count;
        for index in 0..count {
            supervisor.schedule(Duty::Start(index), Duration::ZERO);
        }
        Ok(supervisor)
    }

    /// Of workers that do not run yet.
    fn of(mut seats: Seats, bpffs: PathBuf, plans: Vec<WorkerPlan>) -> Result<Self> {
        let (sender, events) = unbounded_channel();
        let count = u32::try_from(plans.len())?;
        seats.note_workers(count)?;
        let template = plans.first().context("there is no worker")?;
        Ok(Self {
            wanted: plans.len(),
            template: WorkerPlan { weight: Weight::ONE, ..template.clone() },
            seats,
            bpffs,
            binary: Binary::own().context("cannot find the program that this is")?,
            workers: plans.into_iter().map(Worker::new).collect(),
            leaving: Vec::new(),
            agenda: Agenda::default(),
            rest: None,
            hindrance: Hindrance::default(),
            untold: Vec::new(),
            unready: 0,
            reload: None,
            again: false,
            scale: None,
            stopping: false,
            failed: false,
            notices: VecDeque::new(),
            sender,
            events,
        })
    }

    /// The group's steering.
    ///
    /// # Errors
    /// Returns an error if the workers share one socket.
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
        self.wanted
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

    /// Starts a process that is, or succeeds, a worker. Under the group's lock, which keeps others from a
    /// group with a member that is no process yet.
    fn start_process(&mut self, index: usize, settle: Duration) -> Result<Running> {
        let plan = &self.workers[index].plan;
        let seat = if plan.job.binds() { None } else { Some(self.seats.take(index, plan.weight)?) };
        let slot = seat.as_ref().map(|seat| seat.slot);
        let terms = Terms {
            index,
            group: self.seats.group(),
            bpffs: &self.bpffs,
            binary: &self.binary,
            place: self.seats.identity(),
            user: plan.user.as_ref(),
            within: plan.ready_within,
            settle,
        };
        let started = plan
            .job
            .launch(&terms, seat)
            .and_then(|launch| WorkerProcess::start(index, launch, plan.cpu, &self.sender))
            .and_then(|process| {
                let noted = slot.map_or(Ok(()), |slot| self.seats.occupy(slot, process.identity));
                if noted.is_err() {
                    process.signal(Signal::KILL);
                }
                noted.map(|()| process)
            });
        if let (Err(_), Some(slot)) = (&started, slot) {
            self.schedule(Duty::Vacate { slot, heir: None }, Duration::ZERO);
        }
        Ok(Running::new(slot, started?))
    }

    /// Waits for the next thing to tell, and does meanwhile what is to be done.
    pub async fn next(&mut self) -> Notice {
        loop {
            let more = self.do_what_is_due();
            debug_assert_eq!(self.forgotten(), None, "a worker is neither there nor to be started");
            if let Some(notice) = self.notices.pop_front() {
                return notice;
            }
            if self.stopping && self.running() == 0 {
                return Notice::AllGone;
            }
            if more {
                yield_now().await;
            }
            let due = self.due();
            tokio::select! {
                Some(told) = self.events.recv() => self.hear(told),
                () = sleep_until(due) => {}
            }
            self.scale_if_asked();
            self.reload_if_asked();
        }
    }

    /// Has those who wait for a reload told something, and who comes after this agent.
    fn tell(&mut self, change: impl Fn(&mut AgentState) + 'static) {
        self.untold.push(Box::new(change));
        self.schedule(Duty::Tell, Duration::ZERO);
    }

    /// Says that there is no point in trying again.
    fn fail(&mut self, why: String) {
        self.failed = true;
        self.notices.push_back(Notice::NeverReady(why));
    }

    /// Asks a worker to finish and end; another takes its place as soon as it has.
    pub fn replace(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        if let Some(running) = &worker.running {
            worker.replaced = true;
            running.process.ask_to_end(worker.plan.ending.signal);
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
        self.agenda.forget(|duty| matches!(duty, Duty::Start(_) | Duty::Succeed(_)));
        self.give_up_reload("balancer was told to stop".to_owned());
        self.ask_all_to_end();
    }

    fn ask_all_to_end(&self) {
        for worker in &self.workers {
            let own = worker.running.iter().chain(&worker.successor);
            own.for_each(|running| running.process.ask_to_end(worker.plan.ending.signal));
        }
        for (index, running) in &self.leaving {
            running.process.ask_to_end(self.workers[*index].plan.ending.signal);
        }
    }

    /// Sends all processes a signal.
    pub fn signal(&self, signal: Signal) {
        self.processes().for_each(|running| running.process.signal(signal));
    }
}

impl Drop for Supervisor {
    /// Workers outlive a supervisor that is killed, but none that gives up.
    fn drop(&mut self) {
        self.ask_all_to_end();
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
