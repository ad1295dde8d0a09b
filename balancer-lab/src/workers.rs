//! What the laboratory asks of the product: workers of a scenario that can be loaded, disturbed and
//! asked for their CPU time.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use rustix::process::Signal;

use crate::{contender::Contender, scenario::Scenario};

/// What happened to workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One ended unasked; with the sentence that says so.
    Died(String),
    /// One that was replaced has a successor.
    Back(usize),
    /// Something that no trial depends on.
    Other,
}

/// The workers that serve one address.
pub trait Workers {
    /// Where they listen.
    fn address(&self) -> SocketAddr;

    /// How many there are.
    fn count(&self) -> usize;

    /// The worker of a slot, now or earlier.
    fn worker_of(&self, slot: u32) -> Option<usize>;

    /// Sends a worker a signal.
    fn signal(&self, worker: usize, signal: Signal);

    /// Ends a worker and starts another in its place.
    fn replace(&mut self, worker: usize);

    /// The CPU time that each worker and its predecessors have used.
    fn cpu_times(&self) -> Vec<Duration>;

    /// Waits for the next event, restarting workers meanwhile.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    fn next(&mut self) -> impl Future<Output = Result<Event>>;

    /// Waits until every worker runs.
    ///
    /// # Errors
    /// Returns an error if one does not come back in time.
    fn complete(&mut self) -> impl Future<Output = Result<()>>;
}

/// The workers of a scenario under every contender. They stay for all trials; only the policy changes,
/// as it would in a group that is in use.
pub trait Bed: Sized {
    /// The workers of one contender.
    type Side: Workers;

    /// Starts them, and waits until all are ready.
    ///
    /// # Errors
    /// Returns an error if one cannot be started.
    fn start(scenario: &Scenario, bpffs: &Path) -> impl Future<Output = Result<Self>>;

    /// The workers of a contender, switched to its policy.
    ///
    /// # Errors
    /// Returns an error if the policy cannot be switched to.
    fn side(&mut self, contender: Contender) -> Result<&mut Self::Side>;

    /// Ends all workers.
    fn stop(self) -> impl Future<Output = ()>;
}
