//! The results, as tables and as JSON.

use balancer::{machine::Machine, policy::Policy};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{
    bed::{self, Counted, WEIGHTS},
    cost::Cost,
    rate::Rate,
    statistics::Spread,
};

/// All that was measured.
#[derive(Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Connections a policy and round.
    connections: u64,
    /// The first table.
    pub cost: Vec<Cost>,
    /// The second table.
    pub rate: Vec<Rate>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(machine: Machine, connections: u64) -> Self {
        Self { machine, connections, cost: Vec::new(), rate: Vec::new() }
    }
}

/// The first table: a row a policy and number of CPUs.
pub fn cost(report: &Report) -> String {
    let rows = report.cost.iter().map(|cost| {
        let over = match cost.policy {
            Policy::Noop | Policy::Fixed => String::new(),
            _ => spread(&cost.over_fixed, 0),
        };
        vec![cost.cpus.to_string(), cost.policy.name().into(), spread(&cost.run, 0), over]
    });
    let ratios = report.cost.iter().map(|cost| cost.runs as f64 / cost.connections as f64);
    let ratio = Spread::of(ratios.collect());
    format!(
        "A choice in nanoseconds, as the kernel measures it\n{}\n{}\n\
         noop chooses nothing, fixed always slot 0; weights {WEIGHTS:?}\n\
         {:.5} to {:.5} runs of the program a connection",
        table(&["CPUS", "POLICY", "A RUN", "OVER FIXED"], rows),
        rounds(report, report.cost.first().map(|cost| &cost.run)),
        ratio.range[0],
        ratio.range[1],
    )
}

/// The second table: a row a policy.
pub fn rate(report: &Report) -> String {
    let rows = report.rate.iter().map(|rate| {
        vec![rate.policy.name().into(), spread(&rate.rate, 0), spread(&rate.of_kernel, 3)]
    });
    format!(
        "Connections a second from {} CPUs, nothing measured in the kernel meanwhile\n{}\n{}\n\
         each connection is opened, reset and accepted, without a byte of data; each policy is \
         compared\nwith the kernel's hash right before or after it, the kernel's hash with itself",
        report.machine.cpus,
        table(&["POLICY", "A SECOND", "OF KERNEL'S"], rows),
        rounds(report, report.rate.first().map(|rate| &rate.rate)),
    )
}

/// Whether the programs counted what happened.
pub fn audit(report: &Report) -> String {
    let costs = report.cost.iter().map(|cost| (cost.policy, cost.connections, cost.counted));
    let rates = report.rate.iter().map(|rate| (rate.policy, rate.connections, rate.counted));
    let mut whole = (0, Counted::default());
    let mut warnings = String::new();
    for (policy, connections, counted) in costs.chain(rates).filter(|row| bed::steers(&row.0)) {
        whole.0 += connections;
        whole.1 += counted;
        let Counted { selected, fallback } = counted;
        if connections != selected + fallback {
            warnings += &format!(
                "warning: {}: {connections} connections, but {selected} selected and {fallback} \
                 left to the kernel's hash\n",
                policy.name()
            );
        }
    }
    let (connections, Counted { selected, fallback }) = whole;
    format!(
        "{warnings}{connections} connections to steer, {selected} selected, {fallback} left to the \
         kernel's hash"
    )
}

fn rounds(report: &Report, first: Option<&Spread>) -> String {
    let rounds = first.map_or(0, |spread| spread.rounds.len());
    format!(
        "median (and quartiles) of {rounds} rounds of {} connections a policy",
        report.connections
    )
}

fn spread(spread: &Spread, digits: usize) -> String {
    let Spread { median, quartiles: [lower, upper], .. } = spread;
    format!("{median:.digits$} ({lower:.digits$} to {upper:.digits$})")
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for (name, column) in header.iter().zip(table.column_iter_mut()) {
        let text = *name == "POLICY";
        column.set_cell_alignment(if text { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
