//! What is known of a worker: what it is asked for, the process that is it now, and what to say of
//! its end.

use std::{
    collections::VecDeque, os::unix::process::ExitStatusExt as _, process::ExitStatus,
    time::Duration,
};

use tokio::time::Instant;

use super::{backoff::Backoff, child::WorkerProcess, ending::Ending, job::Job};
use balancer_steering::weight::Weight;

use crate::{idle_grace::IdleGrace, user::User};

/// A command that ends within this time of its first start, and not by a signal, is taken for one
/// that cannot work as it was called.
pub(super) const EARLY: Duration = Duration::from_secs(1);

/// How many of its last complaints are quoted when a worker never came up.
const QUOTED: usize = 5;

/// What is asked of a worker.
#[derive(Clone, Debug)]
pub struct WorkerPlan {
    /// Its weight; a successor has that of its predecessor.
    pub weight: Weight,
    /// What it runs.
    pub job: Job,
    /// The only CPU that it may use.
    pub cpu: Option<usize>,
    /// As whom it runs, if not as its supervisor.
    pub user: Option<User>,
    /// How long it may take to get ready.
    pub ready_within: Duration,
    /// How long it may take to finish its connections once it gets no new ones; and to end then.
    pub drain_within: Duration,
    /// How long connections that it has left must be idle, so that it need not finish them.
    pub idle_grace: IdleGrace,
    /// How it ends.
    pub ending: Ending,
    /// How often it is started again until it has lived for a while; `None` without end.
    pub restarts: Option<u32>,
}

/// A worker, whoever is it at the moment.
pub(super) struct Worker {
    pub plan: WorkerPlan,
    pub backoff: Backoff,
    /// Nobody of it has ended yet.
    pub first: bool,
    /// Was added, and has not served yet.
    pub joins: bool,
    /// Told to end so that another takes its place.
    pub replaced: bool,
    pub running: Option<Running>,
    /// Takes its place in a reload, once it is ready.
    pub successor: Option<Running>,
}

/// A process that is a worker.
pub(super) struct Running {
    /// None until it has bound, where it does so itself.
    pub slot: Option<u32>,
    pub ready: bool,
    /// How often its connections were waited for: it may have been taken back.
    pub drains: u32,
    /// It was told to end, for good.
    pub dismissed: bool,
    /// Its last complaints.
    pub words: VecDeque<String>,
    pub since: Instant,
    pub process: WorkerProcess,
}

impl Worker {
    pub fn new(plan: WorkerPlan) -> Self {
        Self {
            plan,
            backoff: Backoff::default(),
            first: true,
            joins: false,
            replaced: false,
            running: None,
            successor: None,
        }
    }

    /// How long to wait until it is started again after having lived that long; `None` if that was often enough.
    pub fn again_in(&mut self, lived: Duration) -> Option<Duration> {
        let delay = self.backoff.after(lived);
        self.plan.restarts.is_none_or(|most| self.backoff.deaths() <= most).then_some(delay)
    }

    /// Whether it runs, or has a successor.
    pub fn is_kept(&self) -> bool {
        self.running.is_some() || self.successor.is_some()
    }

    /// A line of a foreign program, with the number of its worker.
    pub fn sign(&self, index: usize, line: String) -> String {
        if self.plan.job.is_foreign() { format!("[{index}] {line}") } else { line }
    }

    pub fn ended_early(&self, lived: Duration, status: Option<ExitStatus>) -> bool {
        let by_itself = status.is_some_and(|status| status.code().is_some());
        self.plan.job.is_foreign() && lived < EARLY && by_itself
    }
}

impl Running {
    pub fn new(slot: Option<u32>, process: WorkerProcess) -> Self {
        let (words, since) = (VecDeque::new(), Instant::now());
        Self { slot, ready: false, drains: 0, dismissed: false, words, since, process }
    }

    pub fn pid(&self) -> u32 {
        self.process.identity.pid
    }

    /// Keeps a complaint to be quoted.
    pub fn complain(&mut self, line: &str) {
        self.words.push_back(line.to_owned());
        if self.words.len() > QUOTED {
            self.words.pop_front();
        }
    }

    /// Why there is no point in starting it again.
    pub fn never_ready(&self, index: usize, status: Option<ExitStatus>) -> String {
        let (pid, ending) = (self.pid(), ending(status));
        let quoted: String = self.words.iter().map(|line| format!("\n  {line}")).collect();
        let said = match quoted.as_str() {
            "" => "without a word on standard error",
            _ => "and said at last:",
        };
        format!("worker {index} (PID {pid}) {ending} at its start, {said}{quoted}")
    }
}

/// How a process ended, as the end of a sentence.
pub fn ending(status: Option<ExitStatus>) -> String {
    match (status.and_then(|status| status.code()), status.and_then(|status| status.signal())) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
