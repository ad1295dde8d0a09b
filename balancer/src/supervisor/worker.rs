//! What is known of a worker: what it is asked for, the process that is it now, and what to say of
//! its end.

use std::{
    collections::VecDeque, os::unix::process::ExitStatusExt as _, process::ExitStatus,
    time::Duration,
};

use tokio::time::Instant;

use super::{backoff::Backoff, child::WorkerProcess, job::Job};
use crate::weight::Weight;

/// A command that ends within this time of its first start, and not by a signal, is taken for one
/// that cannot work as it was called.
const EARLY: Duration = Duration::from_secs(1);

/// How many of its last complaints are quoted when a worker never came up.
const QUOTED: usize = 5;

/// What is asked of a worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerPlan {
    /// Its weight; a successor has that of its predecessor.
    pub weight: Weight,
    /// What it runs.
    pub job: Job,
    /// The only CPU that it may use.
    pub cpu: Option<usize>,
}

/// A worker, whoever is it at the moment.
pub(super) struct Worker {
    pub plan: WorkerPlan,
    pub backoff: Backoff,
    /// Nobody of it has ended yet.
    pub first: bool,
    /// Told to end so that another takes its place.
    pub replaced: bool,
    pub running: Option<Running>,
}

/// A process that is a worker.
pub(super) struct Running {
    /// None until it has bound, where it does so itself.
    pub slot: Option<u32>,
    pub ready: bool,
    /// Its last complaints.
    pub words: VecDeque<String>,
    pub since: Instant,
    pub process: WorkerProcess,
}

impl Worker {
    pub fn new(plan: WorkerPlan) -> Self {
        Self { plan, backoff: Backoff::default(), first: true, replaced: false, running: None }
    }

    /// A line of a foreign program, with the number of its worker.
    pub fn sign(&self, index: usize, line: String) -> String {
        if self.plan.job.is_foreign() { format!("[{index}] {line}") } else { line }
    }

    /// Keeps a complaint to be quoted; the line to be shown.
    pub fn complain(&mut self, index: usize, line: String) -> String {
        if let Some(running) = &mut self.running {
            running.words.push_back(line.clone());
            if running.words.len() > QUOTED {
                running.words.pop_front();
            }
        }
        self.sign(index, line)
    }

    pub fn ended_early(&self, lived: Duration, status: ExitStatus) -> bool {
        self.plan.job.is_foreign() && lived < EARLY && status.code().is_some()
    }
}

impl Running {
    pub fn new(slot: Option<u32>, process: WorkerProcess) -> Self {
        Self { slot, ready: false, words: VecDeque::new(), since: Instant::now(), process }
    }

    /// Why there is no point in starting it again.
    pub fn never_ready(&self, index: usize, status: ExitStatus) -> String {
        let (pid, ending) = (self.process.identity.pid, ending(status));
        let quoted: String = self.words.iter().map(|line| format!("\n  {line}")).collect();
        let said = match quoted.as_str() {
            "" => "without a word on standard error",
            _ => "and said at last:",
        };
        format!("worker {index} (PID {pid}) {ending} at its start, {said}{quoted}")
    }
}

/// How a process ended, as the end of a sentence.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
