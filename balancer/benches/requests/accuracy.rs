//! Whether what the kernel says of requests is what their clients saw.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use balancer_lab::idle_inhibitor::IdleInhibitor;
use balancer_steering::steering::Store;
use serde::Serialize;

use crate::{
    client::Asking,
    progress,
    rows::{ALL, Row},
    server::STEERED,
    steered,
};

/// How many clients ask at once, each on a connection of its own.
const CLIENTS: usize = 4;

/// The first requests, which a server may have to get ready for, and which nobody looks at.
const FIRST: usize = 5;

/// By so much they may differ: a part of what the client saw, or milliseconds.
pub const TOLERANCE: (f64, f64) = (0.03, 0.1);

/// A server, as its clients and the kernel saw it.
#[derive(Serialize)]
pub struct Seen {
    /// The server.
    pub server: &'static str,
    /// How it was asked.
    pub way: &'static str,
    /// Requests that clients sent, all of which were answered.
    pub answered: u64,
    /// Requests that the kernel counted.
    pub counted: u64,
    /// The median in milliseconds.
    pub p50: Both,
    /// Of a hundred requests, one took longer; in milliseconds.
    pub p99: Both,
    /// The median from a request's arrival until it was read, in milliseconds.
    pub to_read: f64,
}

/// What the client saw and what the kernel, in milliseconds.
#[derive(Clone, Copy, Serialize)]
pub struct Both {
    /// From before a request was written to the first octet of its answer.
    pub client: f64,
    /// From the arrival of a request until its answer was written.
    pub kernel: f64,
}

impl Both {
    /// How much less the kernel saw.
    pub fn difference(self) -> f64 {
        self.client - self.kernel
    }

    /// Whether that may be.
    fn is_near(self) -> bool {
        self.difference().abs() <= TOLERANCE.1.max(TOLERANCE.0 * self.client)
    }
}

impl Seen {
    /// What is apart; nothing if all is as it should be.
    pub fn apart(&self) -> Vec<&'static str> {
        let all = [
            ("count", self.answered == self.counted),
            ("p50", self.p50.is_near()),
            ("p99", self.p99.is_near()),
        ];
        all.iter().filter(|(_, near)| !near).map(|(what, _)| *what).collect()
    }
}

/// Measures all servers that are installed. The others are named.
///
/// # Errors
/// Returns an error if a server cannot be started or steered, or does not answer.
pub fn measure(store: &Store) -> Result<Vec<Seen>> {
    let _awake = IdleInhibitor::keep()?;
    let mut seen = Vec::new();
    for (number, row) in ALL.iter().enumerate() {
        let (name, way) = (row.name, row.way.name());
        progress::show(format_args!("{number} of {} rows: {name}, {way}", ALL.len()));
        let missing = row.server.missing();
        if missing.is_empty() {
            seen.push(see(store, row).with_context(|| format!("{name}, {way}"))?);
        } else {
            progress::clear();
            eprintln!(
                "!! {name} is skipped; to measure it: apt-get install {} !!",
                missing.join(" ")
            );
        }
    }
    progress::clear();
    Ok(seen)
}

fn see(store: &Store, row: &Row) -> Result<Seen> {
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let _running = row.server.start(directory.path())?;
    let request = format!("GET /{} HTTP/1.1\r\nHost: bench\r\n\r\n", row.path);
    let asking = Asking {
        address: STEERED,
        way: row.way,
        request: request.as_bytes(),
        clients: CLIENTS,
        requests: FIRST.min(row.requests),
    };
    asking.run(|| Ok(()))?;
    let attachment = steered::attach(store, STEERED)?;
    let observation = store.observe()?;
    let asking = Asking { requests: row.requests, ..asking };
    // Times are those of requests, without what handshakes look like; the count is of all.
    let (mut times, before) = asking.run(|| steered::requests(&attachment))?;
    // A client may have the last answer before its write has returned.
    thread::sleep(Duration::from_millis(200));
    let kernel = steered::requests(&attachment)?;
    drop(observation);
    attachment.end(store)?;
    times.sort_unstable();
    let to_answer = kernel.to_answer.since(&before.to_answer);
    let quantile = |percent: usize| {
        let client = times[(times.len() * percent).div_ceil(100) - 1];
        Both {
            client: millis(Some(client)),
            kernel: millis(to_answer.quantile(percent as f64 / 100.0)),
        }
    };
    Ok(Seen {
        server: row.name,
        way: row.way.name(),
        answered: times.len() as u64,
        counted: kernel.answered(),
        p50: quantile(50),
        p99: quantile(99),
        to_read: millis(kernel.to_read.quantile(0.5)),
    })
}

fn millis(time: Option<Duration>) -> f64 {
    time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
