//! What processes do, as far as their supervisor is concerned.

use std::process::ExitStatus;

use balancer_steering::{discovery::Bound, process::Identity, steering::Remaining};
use tokio::sync::{OwnedSemaphorePermit, mpsc::UnboundedSender};

/// What a process does, or what becomes of it.
#[derive(Debug)]
pub enum Event {
    /// It accepts connections.
    Ready,
    /// It has bound for itself.
    Bound(Bound),
    /// It did not get ready, and why.
    NotReady(String),
    /// It printed a line, which takes room until it is heard.
    Line(String, OwnedSemaphorePermit),
    /// It printed a line to standard error.
    Complaint(String, OwnedSemaphorePermit),
    /// It had no connection left, or so much when the time was up; or it cannot be said. Its number
    /// tells this from an earlier wait, after which it was taken back.
    Drained(u32, Result<Remaining, String>),
    /// It was told to end, and has not.
    Overdue,
    /// It is gone; how is not known of one that somebody else started.
    Exited(Option<ExitStatus>),
}

/// An event, and whose.
#[derive(Debug)]
pub struct Told {
    /// Number of the worker that the process is, was or will be.
    pub index: usize,
    /// Which process: while a worker is replaced it is two.
    pub process: Identity,
    /// What it did.
    pub event: Event,
}

/// Tells of one process.
#[derive(Clone, Debug)]
pub struct Teller {
    /// Number of its worker.
    pub index: usize,
    /// Which process.
    pub process: Identity,
    /// To whom.
    pub sender: UnboundedSender<Told>,
}

impl Teller {
    /// Tells; nobody is there to hear it once the supervisor has given up.
    pub fn tell(&self, event: Event) {
        let Self { index, process, .. } = *self;
        let _ = self.sender.send(Told { index, process, event });
    }
}
