//! The results, as tables and as JSON.

use balancer_lab::machine::Machine;
use serde::Serialize;

use crate::{
    accuracy::{Seen, TOLERANCE},
    cost::Cost,
    server::LEFT_OUT,
    table::{spread, table},
};

/// All that was measured.
#[derive(Serialize)]
pub struct Report {
    /// The machine, and the time.
    pub machine: Machine,
    /// The first table.
    pub accuracy: Vec<Seen>,
    /// The second table.
    pub cost: Vec<Cost>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(machine: Machine) -> Self {
        Self { machine, accuracy: Vec::new(), cost: Vec::new() }
    }
}

const SEEN: [&str; 12] = [
    "SERVER",
    "WAY",
    "ANSWERED",
    "COUNTED",
    "P50 CLIENT",
    "KERNEL",
    "DIFF",
    "P99 CLIENT",
    "KERNEL",
    "DIFF",
    "TO READ",
    "VERDICT",
];

/// What the columns are.
const LEGEND: &str = "\
Four clients. Answered is what they counted, counted what the kernel did. The client's times are from before
a request was written to the first octet of its answer, the kernel's from its arrival until the server had
written; diff is how much less the kernel saw. To read is the median from a request's arrival until the
server had read it, as the kernel saw it.
Pipelined requests that wait unread together are seen as one, from the arrival of the first to the next write.
A TLS handshake is counted as requests, of which none is in the times: nginx answers the first message, and
sends session tickets after the last.";

/// The first table: a row per server and way to ask it.
pub fn accuracy(report: &Report) -> String {
    let rows = report.accuracy.iter().map(|seen| {
        let millis = |millis: f64| format!("{millis:.3}");
        let apart = seen.apart();
        let (part, least) = (TOLERANCE.0 * 100.0, TOLERANCE.1);
        let verdict = if apart.is_empty() {
            format!("within {part} % or {least} ms")
        } else {
            format!("apart: {}", apart.join(", "))
        };
        let mut row = vec![seen.server.to_owned(), seen.way.to_owned()];
        row.extend([seen.answered, seen.counted].map(|count| count.to_string()));
        for both in [seen.p50, seen.p99] {
            row.extend([both.client, both.kernel, both.difference()].map(millis));
        }
        row.extend([millis(seen.to_read), verdict]);
        row
    });
    format!(
        "Requests as their clients and as the kernel saw them, in milliseconds\n{}\n{LEGEND}\n{LEFT_OUT}",
        table(&SEEN, &["SERVER", "WAY", "VERDICT"], rows)
    )
}

/// The second table: a row per server that is asked.
pub fn cost(report: &Report) -> String {
    let rows = report.cost.iter().map(|cost| {
        let wanted = cost.asked.wanted().map_or_else(String::new, |least| format!("{least:.2}"));
        let (off, on) = (spread(&cost.off, 0), spread(&cost.on, 0));
        vec![cost.asked.to_string(), off, on, spread(&cost.left, 3), wanted]
    });
    let rounds = report.cost.first().map_or(0, |cost| cost.left.rounds.len());
    format!(
        "Requests a second with the request tracker off and on, of nginx and its client on one CPU\n{}\n\
         median (and quartiles) of {rounds} rounds, off and on in turn; what is left is on over off of the \
         same round",
        table(&["ASKED", "OFF", "ON", "LEFT", "WANTED"], &["ASKED"], rows)
    )
}
