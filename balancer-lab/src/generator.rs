//! Sends requests when they are due, whether others are answered or not, and times each from when
//! it was due: a server that stands still is seen by all who would have come meanwhile. (Latency
//! from the time of sending, or from the answer before, hides that: "coordinated omission", a term
//! of Gil Tene's.)

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::{arrivals::Schedule, client::Connection, pacer::Pacer, report::ErrorKind};
use crate::{
    machine,
    work::{Kind, Work},
};

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When it was due.
    pub due: Instant,
    /// When the generator came to it.
    pub begun: Instant,
    /// When it was answered, or failed.
    pub ended: Instant,
    /// The slot of who answered, if that told.
    pub answer: Result<Option<u32>, ErrorKind>,
    /// Whether the answer was the first on its connection, and the connection none of those that
    /// were open before.
    pub first: bool,
}

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// The slots of who accepted the connections that stay, before time 0.
    pub opened: Vec<u32>,
    /// What became of each request.
    pub requests: Vec<Outcome>,
}

/// A load on its way, in a thread of its own. Dropped, it ends.
pub struct Load {
    /// When time 0 of the schedule was.
    pub began: oneshot::Receiver<Instant>,
    /// What became of the requests, or why the generator failed.
    pub outcomes: oneshot::Receiver<Result<Outcomes>>,
    _wanted: oneshot::Sender<()>,
}

/// Between the connections being open and the first request.
const BREATH: Duration = Duration::from_millis(5);

impl Load {
    /// Opens the connections that stay, then begins.
    ///
    /// # Errors
    /// Returns an error if no thread can be had.
    pub fn start(address: SocketAddr, schedule: Schedule) -> Result<Self> {
        let (begin, began) = oneshot::channel();
        let (finish, outcomes) = oneshot::channel();
        let (wanted, unwanted) = oneshot::channel();
        let run = move || {
            // Clients are elsewhere, as a rule, and on time also where workers use all CPUs. Not
            // everybody may go first; else it shows in the lateness.
            let _ = machine::prefer_this_thread();
            let generate = async {
                tokio::select! {
                    outcomes = generate(address, &schedule, begin) => Some(outcomes),
                    _ = unwanted => None,
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcomes = match runtime {
                Ok(runtime) => runtime.block_on(generate),
                Err(error) => Some(Err(error.into())),
            };
            let _ = outcomes.map(|outcomes| finish.send(outcomes));
        };
        thread::Builder::new()
            .name("generator".to_owned())
            .spawn(run)
            .context("cannot start a thread")?;
        Ok(Self { began, outcomes, _wanted: wanted })
    }
}

async fn generate(
    address: SocketAddr,
    schedule: &Schedule,
    begin: oneshot::Sender<Instant>,
) -> Result<Outcomes> {
    let pacer = Pacer::new().context("cannot make a timer")?;
    let (report, mut outcomes) = unbounded_channel();
    let mut staying = Vec::new();
    let mut opened = Vec::new();
    for _ in 0..schedule.connections {
        let (sender, requests) = unbounded_channel();
        let (connection, slot) = Staying::open(address).await;
        opened.extend(slot);
        tokio::spawn(connection.serve(requests, report.clone()));
        staying.push(sender);
    }
    let start = Instant::now() + BREATH;
    // Who is not interested need not be told.
    let _ = begin.send(start);
    for request in &schedule.requests {
        let due = start + request.due;
        pacer.until(due).await.context("cannot wait")?;
        let due = Due { due, begun: Instant::now(), work: request.work };
        match request.connection.and_then(|connection| staying.get(connection)) {
            // It lives as long as its sender.
            Some(connection) => drop(connection.send(due)),
            None => drop(tokio::spawn(alone(address, due, report.clone()))),
        }
    }
    drop((staying, report));
    let mut requests = Vec::with_capacity(schedule.requests.len());
    while let Some(outcome) = outcomes.recv().await {
        requests.push(outcome);
    }
    Ok(Outcomes { opened, requests })
}

/// A request whose time has come.
struct Due {
    due: Instant,
    begun: Instant,
    work: Work,
}

impl Due {
    fn answered(&self, answer: Result<Option<u32>, ErrorKind>, first: bool) -> Outcome {
        Outcome { due: self.due, begun: self.begun, ended: Instant::now(), answer, first }
    }
}

/// A request with a connection of its own.
async fn alone(address: SocketAddr, due: Due, report: UnboundedSender<Outcome>) {
    let answer = async { Connection::open(address).await?.ask(due.work, true).await }.await;
    let _ = report.send(due.answered(answer, true));
}

/// A connection that stays. Where it does not, the next request opens another, as a client would.
struct Staying {
    address: SocketAddr,
    connection: Option<Connection>,
    first: bool,
}

impl Staying {
    /// Opens it, and has a worker accept it and say its slot.
    async fn open(address: SocketAddr) -> (Self, Option<u32>) {
        let mut staying = Self { address, connection: None, first: true };
        let nothing = Work { kind: Kind::Wait, micros: 0 };
        // A failure shows at the first request that counts.
        let slot = staying.ask(nothing).await.ok().flatten();
        staying.first = slot.is_none();
        (staying, slot)
    }

    async fn serve(
        mut self,
        mut requests: UnboundedReceiver<Due>,
        report: UnboundedSender<Outcome>,
    ) {
        while let Some(due) = requests.recv().await {
            let answer = self.ask(due.work).await;
            let first = answer.is_ok() && std::mem::take(&mut self.first);
            let _ = report.send(due.answered(answer, first));
        }
    }

    async fn ask(&mut self, work: Work) -> Result<Option<u32>, ErrorKind> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                self.first = true;
                self.connection.insert(Connection::open(self.address).await?)
            }
        };
        let answer = connection.ask(work, false).await;
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }
}
