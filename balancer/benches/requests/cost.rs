//! What is left of the requests a second that nginx answers, with the request tracker on: to a server that
//! is steered, and to another, whose sockets the tracker has to tell from those of members.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use balancer_steering::{affinity, steering::Store};
use rustix::process::setpriority_process;
use serde::{Serialize, Serializer};

use crate::{
    load, progress,
    server::{OTHER, STEERED, Server},
    statistics::{Spread, rotation},
    steered,
};

/// How long each load is: short, so that both sides of a round meet the same machine.
const EACH: Duration = Duration::from_millis(200);

/// The nice value with which a process gets nearly all of a CPU.
const FIRST: i32 = -20;

/// The server that is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The server that is steered, with the tracker off on both sides: what is noise.
    Noise,
    /// The server that is steered.
    Member,
    /// The other.
    Other,
}

const ALL: [Asked; 3] = [Asked::Noise, Asked::Member, Asked::Other];

impl Asked {
    fn address(self) -> SocketAddr {
        if self == Self::Other { OTHER } else { STEERED }
    }

    /// What is wanted to be left, at least.
    pub fn wanted(self) -> Option<f64> {
        match self {
            Self::Noise => None,
            Self::Member => Some(0.96),
            Self::Other => Some(0.97),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Noise => "a member, off both times",
            Self::Member => "a member",
            Self::Other => "another server",
        })
    }
}

impl Serialize for Asked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One of them under load.
#[derive(Serialize)]
pub struct Cost {
    /// Who.
    pub asked: Asked,
    /// Requests a second, the tracker off.
    pub off: Spread,
    /// The same, the tracker on.
    pub on: Spread,
    /// What is left, round by round.
    pub left: Spread,
}

/// Measures on one CPU, which nginx and its client share: so all that the tracker takes from either is in
/// it. Nothing, and a line that says why, if nginx is not installed.
///
/// # Errors
/// Returns an error if a load fails, or the kernel refuses.
pub fn measure(store: &Store, rounds: usize) -> Result<Vec<Cost>> {
    let missing = Server::Nginx.missing();
    if !missing.is_empty() {
        eprintln!("!! the cost is not measured; for it: apt-get install {} !!", missing.join(" "));
        return Ok(Vec::new());
    }
    // What is started from here on stays there too, and goes before what else this machine does.
    affinity::pin_to(*affinity::cpus()?.last().context("there is no CPU to run on")?)?;
    setpriority_process(None, FIRST).context("cannot raise the priority of this process")?;
    let directory = tempfile::tempdir().context("cannot make a directory")?;
    let _running = Server::Nginx.start(directory.path())?;
    let attachment = steered::attach(store, STEERED)?;
    let mut rates = [const { [const { Vec::new() }; 2] }; ALL.len()];
    for round in 0..rounds {
        progress::show(format_args!("cost: {round} of {rounds} rounds"));
        for index in rotation(ALL.len(), round) {
            let asked = ALL[index];
            // Which comes first alternates.
            for side in rotation(2, round) {
                let on = side == 1 && asked != Asked::Noise;
                let _observation = on.then(|| store.observe()).transpose()?;
                rates[index][side].push(load::rate(asked.address(), EACH)?);
            }
        }
    }
    progress::clear();
    attachment.end(store)?;
    let rows = ALL.into_iter().zip(rates);
    Ok(rows
        .map(|(asked, [off, on])| Cost {
            asked,
            left: Spread::of_pairs(&on, &off, |on, off| on / off),
            off: Spread::of(off),
            on: Spread::of(on),
        })
        .collect())
}
