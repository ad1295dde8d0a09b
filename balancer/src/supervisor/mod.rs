//! Keeps a group's workers running: a socket, a slot and a process each; a new slot for one that
//! died, after a delay; all of them stopped in order at the end.

mod backoff;
mod child;

use std::{
    collections::VecDeque, net::SocketAddr, os::fd::AsFd as _, path::PathBuf, process::ExitStatus,
    time::Duration,
};

use anyhow::Result;
use balancer_ebpf::record::SlotState;
use rustix::process::Signal;
use socket2::Socket;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::Instant,
};

use self::{
    backoff::Backoff,
    child::{Event, WorkerProcess},
};
use crate::{socket, steering::Steering, weight::Weight};

/// The workers of one group.
pub struct Supervisor {
    steering: Steering,
    address: SocketAddr,
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

struct Worker {
    weight: Weight,
    backoff: Backoff,
    running: Option<Running>,
}

struct Running {
    slot: u32,
    ready: bool,
    since: Instant,
    process: WorkerProcess,
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
    /// A worker never came up: there is no point in trying again.
    NeverReady(String),
    /// After [`Supervisor::stop`]: all are gone.
    AllGone,
}

impl Supervisor {
    /// Starts a worker for each weight. `first` is a socket bound to the address already.
    ///
    /// # Errors
    /// Where a socket or process cannot be had.
    pub fn start(
        steering: Steering,
        first: Socket,
        address: SocketAddr,
        bpffs: PathBuf,
        weights: &[Weight],
    ) -> Result<Self> {
        let (sender, events) = unbounded_channel();
        let worker = |&weight| Worker { weight, backoff: Backoff::default(), running: None };
        let mut supervisor = Self {
            steering,
            address,
            bpffs,
            workers: weights.iter().map(worker).collect(),
            restarts: VecDeque::new(),
            unready: weights.len(),
            stopping: false,
            sender,
            events,
        };
        let mut first = Some(first);
        for index in 0..weights.len() {
            supervisor.start_worker(index, first.take())?;
        }
        Ok(supervisor)
    }

    /// The group's steering.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// How many workers run.
    pub fn running(&self) -> usize {
        self.workers.iter().filter(|worker| worker.running.is_some()).count()
    }

    fn start_worker(&mut self, index: usize, socket: Option<Socket>) -> Result<()> {
        let socket = match socket {
            Some(socket) => socket,
            None => socket::bind(self.address)?,
        };
        let _lock = self.steering.lock()?;
        // The first of a group gets the program before it listens, so that no connection is chosen
        // without it. Another would not be let in with one of its own (`inet_csk_bind_conflict`).
        if !self.steering.has_sockets()? {
            self.steering.attach(socket.as_fd())?;
        }
        socket::listen(&socket, self.address)?;
        // Should the last other member have gone meanwhile, so has the program.
        self.steering.attach(socket.as_fd())?;
        let slot = self.steering.seat(socket.as_fd(), self.workers[index].weight)?;
        let group = self.steering.name().to_owned();
        let started =
            WorkerProcess::start(index, socket.into(), slot, &group, &self.bpffs, &self.sender);
        match started {
            Ok(process) => {
                self.steering.set_worker(slot, process.identity)?;
                let since = Instant::now();
                let running = Running { slot, ready: false, since, process };
                self.workers[index].running = Some(running);
                Ok(())
            }
            Err(error) => {
                self.steering.set_state(slot, SlotState::Vacant)?;
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
            if self.stopping && self.running() == 0 {
                return Ok(Notice::AllGone);
            }
            let due = self.restarts.front().map(|(due, _)| *due);
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = sleep_until(due) => None,
            };
            let notice = match event {
                Some(Event::Line(line)) => Some(Notice::Line(line)),
                Some(Event::Complaint(line)) => Some(Notice::Complaint(line)),
                Some(Event::Ready(index)) => self.ready(index)?,
                Some(Event::Exited(index, status)) => self.exited(index, status)?,
                None => self.restart_due()?,
            };
            if let Some(notice) = notice {
                return Ok(notice);
            }
        }
    }

    fn ready(&mut self, index: usize) -> Result<Option<Notice>> {
        // It may have died since it said so.
        let Some(running) = &mut self.workers[index].running else { return Ok(None) };
        running.ready = true;
        let slot = running.slot;
        let pid = running.process.identity.pid;
        let _lock = self.steering.lock()?;
        self.steering.set_state(slot, SlotState::Live)?;
        match self.unready {
            0 => {
                self.steering.publish()?;
                Ok(Some(Notice::Line(format!(
                    "worker {index} is back as PID {pid} in slot {slot}"
                ))))
            }
            1 => {
                self.unready = 0;
                self.steering.publish()?;
                Ok(Some(Notice::AllReady))
            }
            _ => {
                self.unready -= 1;
                Ok(None)
            }
        }
    }

    fn exited(&mut self, index: usize, status: ExitStatus) -> Result<Option<Notice>> {
        let worker = &mut self.workers[index];
        let Some(running) = worker.running.take() else { return Ok(None) };
        let lock = self.steering.lock()?;
        // Changed by `balancer weight` perhaps; its successor keeps it.
        if let Some(member) = self.steering.members()?.into_iter().find(|m| m.slot == running.slot)
        {
            worker.weight = member.weight;
        }
        self.steering.set_state(running.slot, SlotState::Vacant)?;
        if self.stopping {
            // The kernel has emptied the slot, and nobody will come after it.
            return Ok(None);
        }
        self.steering.publish()?;
        drop(lock);
        let pid = running.process.identity.pid;
        if self.unready > 0 && !running.ready {
            return Ok(Some(Notice::NeverReady(format!("worker PID {pid} {}", ending(status)))));
        }
        if self.unready > 0 {
            // It had been counted off already; its successor will be again.
            self.unready += 1;
        }
        let delay = worker.backoff.after(running.since.elapsed());
        self.schedule(index, delay);
        Ok(Some(Notice::Line(format!(
            "worker {index} (PID {pid}, slot {}) {}; starting it again in {} ms",
            running.slot,
            ending(status),
            delay.as_millis()
        ))))
    }

    fn schedule(&mut self, index: usize, delay: Duration) {
        let due = Instant::now() + delay;
        let place = self.restarts.partition_point(|(other, _)| *other <= due);
        self.restarts.insert(place, (due, index));
    }

    fn restart_due(&mut self) -> Result<Option<Notice>> {
        let Some((_, index)) = self.restarts.pop_front() else { return Ok(None) };
        if let Err(error) = self.start_worker(index, None) {
            let delay = self.workers[index].backoff.after(Duration::ZERO);
            self.schedule(index, delay);
            let delay = delay.as_millis();
            return Ok(Some(Notice::Line(format!(
                "worker {index} cannot be started: {error:#}; trying again in {delay} ms"
            ))));
        }
        Ok(None)
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

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
