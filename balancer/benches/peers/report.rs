//! The results, as tables and as JSON.

use std::collections::BTreeSet;

use balancer_lab::{machine::Machine, scenario::Scenario};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    contender::Contender,
    figures::{Figures, figures},
    statistics::Spread,
    trial::Trial,
};

/// All that was measured.
#[derive(Serialize)]
pub struct Report {
    /// The machine, and the time.
    pub machine: Machine,
    /// Trials of each contender under each load.
    pub rounds: usize,
    /// The loads and their trials, round by round.
    pub loads: Vec<Loaded>,
}

/// A load on all contenders.
#[derive(Serialize)]
pub struct Loaded {
    /// The load.
    pub load: Scenario,
    /// What it did.
    pub trials: Vec<Trial>,
}

const HEADER: [&str; 8] = [
    "CONTENDER",
    "REQUESTS/S",
    "P50 MS",
    "P99 MS",
    "PROXY CPU µS",
    "A WORKER'S SHARE",
    "REQUESTS/S ÷ KERNEL",
    "P99 ÷ KERNEL",
];

/// Where there is no figure.
const NOTHING: &str = "-";

/// What the columns are; said once, after all tables.
pub const LEGEND: &str = "\
The same four workers, the same arrivals and work, in the same rounds; clients in a network namespace
of their own, the rest in another, on the same CPUs. Latency counts from when a request was due.
kernel and round-robin (balancer) share one port and have no hop; nftables rewrites the port of each
connection; haproxy and nginx accept it and connect again. Proxy CPU is what their processes used a
request; what the kernel does for any of them is not in it. A worker's share is of the connections
that were used. Ratios are to kernel in the same round; there are none where a request failed, or the
generator was late time and again.";

/// The table of a load, a row a contender, and why ratios are missing.
pub fn table(loaded: &Loaded, contenders: &[&Contender]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(HEADER);
    let mut notes = BTreeSet::new();
    for contender in contenders {
        let figures = figures(&loaded.trials, contender.name);
        table.add_row(row(contender.name, &figures));
        if let Err(reason) = figures.of_kernel {
            notes.insert(format!("\nno ratio with {reason}"));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: String = table.lines().map(|line| format!("\n{}", line.trim_end())).collect();
    let repeated: usize = loaded.trials.iter().map(|trial| trial.repeated).sum();
    if repeated > 0 {
        notes.insert(format!("\n{repeated} trials begun anew, because the generator was late"));
    }
    let Scenario { name, about, .. } = &loaded.load;
    format!("{name}: {about}{lines}{}", notes.into_iter().collect::<String>())
}

fn row(name: &str, figures: &Figures) -> Vec<String> {
    let [least, most] = figures.shares.map(|share| share * 100.0);
    let (rate, p99) = match &figures.of_kernel {
        Ok(ratio) => (spread(&ratio.rate, 2), spread(&ratio.p99, 2)),
        Err(_) => (NOTHING.to_owned(), NOTHING.to_owned()),
    };
    vec![
        name.to_owned(),
        spread(&figures.rate, 0),
        spread(&figures.p50, 2),
        spread(&figures.p99, 2),
        figures.proxy_cpu.as_ref().map_or_else(|| "none".to_owned(), |cpu| spread(cpu, 0)),
        format!("{least:.1}–{most:.1} %"),
        rate,
        p99,
    ]
}

/// The median, and the smallest and the largest.
fn spread(spread: &Spread, digits: usize) -> String {
    let Spread { median, range: [least, most], rounds, .. } = spread;
    if rounds.is_empty() {
        return NOTHING.to_owned();
    }
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}
