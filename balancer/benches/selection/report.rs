//! The results, as tables and as JSON.

use balancer_lab::machine::Machine;
use serde::Serialize;

use crate::{
    bed::{Counted, WEIGHTS},
    cost::{Cost, FIXED, NOOP},
    curve::Point,
    flows::{Kind, Row},
    load::Work,
    rate::{Contender, Rate},
    scrape::Scrape,
    statistics::Spread,
    table::{self, spread},
    tracker::{Figure, Tracking},
};

/// All that was measured.
#[derive(Serialize)]
pub struct Report {
    /// The machine, and the time.
    pub machine: Machine,
    /// Connections a policy and round.
    connections: u64,
    /// The first table.
    pub cost: Vec<Cost>,
    /// The second table.
    pub rate: Vec<Rate>,
    /// The third table.
    pub curve: Vec<Point>,
    /// The fourth table.
    pub tracker: Option<Tracking>,
    /// The fifth table.
    pub scrape: Vec<Scrape>,
    /// The sixth table.
    pub flows: Vec<Row>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(machine: Machine, connections: u64) -> Self {
        let (cost, rate, curve, scrape) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let flows = Vec::new();
        Self { machine, connections, cost, rate, curve, tracker: None, scrape, flows }
    }
}

/// The first table: a row a policy and number of CPUs.
pub fn cost(report: &Report) -> String {
    let rows = report.cost.iter().map(|cost| {
        let over = match cost.policy {
            NOOP | FIXED => String::new(),
            _ => spread(&cost.over_fixed, 0),
        };
        vec![cost.cpus.to_string(), cost.policy.to_string(), spread(&cost.run, 0), over]
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
        let name = rate.contender.to_string();
        let work = match rate.work {
            Work::Nothing => "nothing",
            Work::Request => "a request",
        };
        let (rate, of_kernel) = (spread(&rate.rate, 0), spread(&rate.of_kernel, 3));
        vec![name, work.to_owned(), rate, of_kernel]
    });
    format!(
        "Connections a second from {} CPUs, nothing measured in the kernel meanwhile\n{}\n{}\n\
         each connection is opened, reset and accepted, without a byte of data, or has a small request \
         answered;\neach policy counts connections, and is compared with the kernel's hash right before \
         or after it, with\nnothing of balancer's on the machine; the kernel's hash with itself",
        report.machine.cpus,
        table(&["POLICY", "EACH FOR", "A SECOND", "OF KERNEL'S"], rows),
        rounds(report, report.rate.first().map(|rate| &rate.rate)),
    )
}

/// The third table: a row a policy and number of members.
pub fn curve(report: &Report) -> String {
    let rows = report.curve.iter().map(|point| {
        let Point { members, policy, over_fixed, a_member } = point;
        let (over, each) = (spread(over_fixed, 0), spread(a_member, 2));
        vec![members.to_string(), policy.to_string(), over, each]
    });
    format!(
        "A choice in nanoseconds by the number of members, on one CPU\n{}\n{}\n\
         fixed is measured in a group of the same size",
        table(&["MEMBERS", "POLICY", "OVER FIXED", "OF IT, A MEMBER"], rows),
        rounds(report, report.curve.first().map(|point| &point.over_fixed)),
    )
}

/// The sixth table: a row for each way to choose for a datagram.
pub fn flows(report: &Report) -> String {
    let rows = report.flows.iter().map(|row| {
        let name = match row.kind {
            Kind::Kernel => "the kernel's hash",
            Kind::Fixed => "fixed",
            Kind::Datagrams => "round robin, each datagram",
            Kind::Known => "round robin, a known flow",
            Kind::New => "round robin, a new flow",
        };
        let or_none = |figure: &Option<Spread>, digits| {
            figure.as_ref().map_or_else(String::new, |figure| spread(figure, digits))
        };
        vec![name.to_owned(), or_none(&row.over_fixed, 0), or_none(&row.of_kernel, 3)]
    });
    format!(
        "A choice for a datagram in nanoseconds, and exchanges beside those under the kernel's hash\n{}\n{}\n\
         an exchange is a datagram of one octet and its answer, on one CPU; 64 clients, 4 members",
        table(&["CHOICE", "OVER FIXED", "EXCHANGES"], rows),
        rounds(report, report.flows.iter().find_map(|row| row.over_fixed.as_ref())),
    )
}

/// The fourth table: what a connection costs that is counted, and what one that is not.
pub fn tracker(report: &Report) -> String {
    let Some(Tracking { measuring, foreign, member }) = &report.tracker else {
        return String::new();
    };
    let named = [("a state change elsewhere", foreign), ("a connection to a member", member)];
    let rows = named.into_iter().map(|(what, figure)| {
        let Figure { changes, raw, net } = figure;
        vec![what.to_owned(), format!("{changes:.2}"), spread(raw, 0), spread(net, 0)]
    });
    format!(
        "Counting connections in nanoseconds, on one CPU\n{}\n{}\n\
         the measuring itself is in each run: {} ns, a run of noop, which is taken off in the last\n\
         column; of a connection its client's three changes, which are a stranger's, are taken off too",
        table(&["WHAT", "RUNS", "AS MEASURED", "WITHOUT THE MEASURING"], rows),
        rounds(report, Some(measuring)),
        spread(measuring, 0),
    )
}

/// The fifth table: a row without times of requests, and one with them.
pub fn scrape(report: &Report) -> String {
    let rows = report.scrape.iter().map(|scrape| {
        let observed = if scrape.observed { "yes" } else { "no" };
        let (members, lines) = (scrape.members.to_string(), scrape.lines.to_string());
        let (time, cpu) = (spread(&scrape.time, 1), spread(&scrape.cpu, 1));
        vec![members, observed.to_owned(), lines, time, cpu]
    });
    let rounds = report.scrape.first().map_or(0, |scrape| scrape.time.rounds.len());
    format!(
        "A scrape of all metrics in milliseconds, from the maps to the text\n{}\n\
         median (and quartiles) of {rounds} scrapes; every member has answered requests before",
        table(&["MEMBERS", "OBSERVED", "LINES", "A SCRAPE", "CPU"], rows),
    )
}

/// Whether the programs counted what happened.
pub fn audit(report: &Report) -> String {
    let costs = report.cost.iter().map(|cost| (cost.policy, cost.connections, cost.counted));
    let rates = report.rate.iter().filter_map(|rate| match rate.contender {
        Contender::Policy(policy) => Some((policy, rate.connections, rate.counted)),
        _ => None,
    });
    let mut whole = (0, Counted::default());
    let mut warnings = String::new();
    for (policy, connections, counted) in costs.chain(rates).filter(|row| row.0.policy.steers()) {
        whole.0 += connections;
        whole.1 += counted;
        let Counted { selected, fallback } = counted;
        if connections != selected + fallback {
            warnings += &format!(
                "warning: {}: {connections} connections, but {selected} selected and {fallback} \
                 left to the kernel's hash\n",
                policy
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

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    table::table(header, &["POLICY", "WHAT", "EACH FOR", "CHOICE"], rows)
}
