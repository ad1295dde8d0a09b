//! What counting connections costs, by the kernel's own statistics of the program that counts.
//!
//! It runs whenever any TCP socket of the machine changes its state, so also for the clients of the
//! load. A listener that is none of the group tells what it takes to see that a socket is no member's;
//! taken off for the client's changes, what is left of a connection to a member is the member's own.

use anyhow::Result;
use balancer_steering::affinity;
use balancer_steering::{policy::Policy, policy_spec::PolicySpec, steering::measure_runs};
use serde::Serialize;

use crate::{
    bed::{Bed, To},
    cost::{NOOP, nanoseconds},
    progress,
    statistics::{Spread, rotation},
};

const COUNTING: PolicySpec = PolicySpec::plain(Policy::LeastConnections);

/// To SYN_SENT, to ESTABLISHED, and with its reset to CLOSE.
const CHANGES_OF_CLIENT: f64 = 3.0;

/// What was measured, in nanoseconds.
#[derive(Serialize)]
pub struct Tracking {
    /// A run of `noop`: nearly all of it is the kernel's measuring, which is in each run.
    pub measuring: Spread,
    /// A state change of a socket that is no member's.
    pub foreign: Figure,
    /// All state changes of a connection on the side of the member that it is to.
    pub member: Figure,
}

/// As it was measured, and without the measuring.
#[derive(Serialize)]
pub struct Figure {
    /// State changes, each a run of the program.
    pub changes: f64,
    /// As it was measured.
    pub raw: Spread,
    /// Without the measuring, that of each run.
    pub net: Spread,
}

#[derive(Clone, Copy)]
enum Kind {
    Measuring,
    Foreign,
    Member,
}

/// Measures on one CPU.
///
/// # Errors
/// Returns an error if a load fails, or the kernel does not measure.
pub fn measure(bed: &mut Bed, rounds: usize, connections: u64) -> Result<Tracking> {
    const KINDS: [Kind; 3] = [Kind::Measuring, Kind::Foreign, Kind::Member];
    let cpus = &affinity::cpus()?[..1];
    let _measuring = measure_runs()?;
    let (mut noop, mut foreign, mut member) = (Vec::new(), Vec::new(), Vec::new());
    let mut changes = Vec::new();
    for round in 0..rounds {
        progress::show(format_args!("cost of counting: {round} of {rounds} rounds"));
        for index in rotation(KINDS.len(), round) {
            match KINDS[index] {
                Kind::Measuring => {
                    noop.push(nanoseconds(bed.load(NOOP, cpus, connections)?.runs));
                }
                Kind::Foreign => {
                    let sample = bed.load_to(To::Stranger, COUNTING, cpus, connections)?;
                    foreign.push(nanoseconds(sample.tracker));
                }
                Kind::Member => {
                    let tracker = bed.load(COUNTING, cpus, connections)?.tracker;
                    member.push(tracker.time.as_nanos() as f64 / connections as f64);
                    changes.push(tracker.count as f64 / connections as f64);
                }
            }
        }
    }
    progress::clear();
    let changes = Spread::of(changes).median - CHANGES_OF_CLIENT;
    let of_member = |whole, foreign| whole - CHANGES_OF_CLIENT * foreign;
    let member = Spread::of_pairs(&member, &foreign, of_member).rounds;
    let figure = |raw: Vec<f64>, changes: f64| Figure {
        changes,
        net: Spread::of_pairs(&raw, &noop, |raw, noop| raw - changes * noop),
        raw: Spread::of(raw),
    };
    let (foreign, member) = (figure(foreign, 1.0), figure(member, changes));
    Ok(Tracking { foreign, member, measuring: Spread::of(noop) })
}
