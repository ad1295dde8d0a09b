//! Where agents, and commands that change a group, print: to a queue that a thread of its own writes out.
//! So a terminal under Ctrl-S, or a reader that hangs, holds up no agent, and no command that has a lock.
//!
//! An agent drops and counts lines while nobody reads; a command has every line written before it ends,
//! when it has no lock any more.
//!
//! | what | module |
//! | --- | --- |
//! | what waits to be written, and what is dropped | `queue` |
//! | where it is written: plain lines, or a live view | `terminal` |

mod queue;
mod terminal;

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use balancer_steering::snapshot::Snapshot;
use rustix::{
    fs::fstat,
    stdio::{stderr, stdout},
};

use self::{queue::Queue, terminal::Terminal};
use crate::rates::Rates;

/// How long the end of an agent waits until all is written.
const MOMENT: Duration = Duration::from_secs(1);

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// What was asked for.
    Out,
    /// What went wrong.
    Err,
}

/// How a group is, for a live view.
pub struct Shown {
    /// What is known.
    pub snapshot: Snapshot,
    /// What that and the last one tell together.
    pub rates: Rates,
    /// Since the agent began.
    pub elapsed: Duration,
}

/// What is to be written.
enum Item {
    Text(Stream, String),
    /// Begins a live view of so many members.
    View(usize),
    Show(Box<Shown>),
    EndView,
}

/// The process's own.
struct Output {
    out: Arc<Queue>,
    /// The same where both streams are one file, so that lines keep their order.
    err: Arc<Queue>,
    live: AtomicBool,
}

static OUTPUT: OnceLock<Output> = OnceLock::new();

/// From now on nothing that is printed is waited for. `patient` is for commands: they drop nothing.
pub fn start(patient: bool) {
    let one_file = || {
        let (out, err) = (fstat(stdout()).ok()?, fstat(stderr()).ok()?);
        Some((out.st_dev, out.st_ino) == (err.st_dev, err.st_ino))
    };
    OUTPUT.get_or_init(|| {
        let start = |stream| Queue::start(stream, patient, Terminal::default());
        let out = start(Stream::Out);
        let err = if one_file() == Some(true) { Arc::clone(&out) } else { start(Stream::Err) };
        Output { out, err, live: AtomicBool::new(false) }
    });
}

/// Prints a text, which ends its line itself; false where [`start`] was not called.
pub fn print(stream: Stream, text: String) -> bool {
    let Some(output) = OUTPUT.get() else { return false };
    output.queue(stream).push(Item::Text(stream, text));
    true
}

/// Waits until a worker's line would find room, or nobody reads, so that it is dropped.
pub async fn room(stream: Stream) {
    if let Some(output) = OUTPUT.get() {
        output.queue(stream).room().await;
    }
}

/// Shows a live view of so many members from now on.
pub fn view(members: usize) {
    if let Some(output) = OUTPUT.get() {
        output.live.store(true, Ordering::Relaxed);
        output.out.push(Item::View(members));
    }
}

/// Draws the live view anew.
pub fn show(shown: Shown) {
    if let Some(output) = OUTPUT.get() {
        output.out.push(Item::Show(Box::new(shown)));
    }
}

/// Takes the live view away.
pub fn end_view() {
    if let Some(output) = OUTPUT.get()
        && output.live.swap(false, Ordering::Relaxed)
    {
        output.out.push(Item::EndView);
    }
}

/// Waits until all is written: an agent not for long, a command for ever.
///
/// # Errors
/// Returns the first error of writing of a command.
pub fn finish() -> io::Result<()> {
    let Some(output) = OUTPUT.get() else { return Ok(()) };
    let deadline = Instant::now() + MOMENT;
    output.out.finish(deadline)?;
    output.err.finish(deadline)
}

impl Output {
    fn queue(&self, stream: Stream) -> &Queue {
        let out = stream == Stream::Out || self.live.load(Ordering::Relaxed);
        if out { &self.out } else { &self.err }
    }
}
