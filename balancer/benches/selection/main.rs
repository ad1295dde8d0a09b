//! What steering costs, measured: one choice in the kernel, also by the number of members; what is left
//! of the connections a second that the kernel's own hash serves; counting connections; and a scrape of all
//! metrics. In a network namespace of its own; needs root.

mod bed;
mod cost;
mod curve;
mod flows;
#[path = "../common/group.rs"]
mod group;
#[path = "../common/json.rs"]
mod json;
mod load;
#[path = "../common/progress.rs"]
mod progress;
mod rate;
mod report;
mod scrape;
#[path = "../common/statistics.rs"]
mod statistics;
#[path = "../common/table.rs"]
mod table;
mod tracker;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use balancer::error;
use balancer_lab::{machine::Machine, sandbox};
use balancer_steering::{policy::Policy, policy_spec::PolicySpec, steering::DEFAULT_BPFFS};
use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use rustix::process::geteuid;

use crate::{
    bed::{Bed, WEIGHTS},
    report::Report,
};

const COST_ROUNDS: usize = 30;
const RATE_ROUNDS: usize = 100;
const CURVE_ROUNDS: usize = 10;
const TRACKER_ROUNDS: usize = 30;
const SCRAPE_ROUNDS: usize = 100;
const FLOWS_ROUNDS: usize = 100;

/// Measure what the policies cost
#[derive(Parser)]
#[command(name = "selection")]
struct Options {
    /// Measure these policies only, such as round-robin+avoid-stalled=off, in the first two tables
    /// [default: all, and that]
    #[arg(value_name = "POLICY")]
    policies: Vec<PolicySpec>,
    /// Rounds of each table [default: 30, but 100 for the rate, the scrape and flows, and 10 for the curve]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: Option<usize>,
    /// Connections a policy and round
    #[arg(long, value_name = "N", default_value_t = 5_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    connections: u64,
    /// Make the group one of a service of so many groups, each with as many members of the same process, in
    /// the first two tables
    #[arg(long, value_name = "GROUPS", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    service: usize,
    /// Measure one of these only
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Write the results there too, every round of them
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    /// Nanoseconds a choice
    Cost,
    /// Connections a second
    Rate,
    /// Nanoseconds a choice by the number of members
    Curve,
    /// Nanoseconds that counting connections takes
    Tracker,
    /// Milliseconds that a scrape of 1,024 members takes
    Scrape,
    /// Nanoseconds a datagram with flows, and exchanges a second
    Flows,
}

impl Options {
    fn wants(&self, table: Only) -> bool {
        self.only.is_none_or(|only| only == table)
    }

    /// The policies that are asked for, without those that are measured anyway.
    fn steered(&self) -> Vec<PolicySpec> {
        let all = || Policy::ALL.into_iter().map(PolicySpec::plain);
        let avoiding = PolicySpec::avoiding_stalled(Policy::RoundRobin, None);
        let mut wanted = match self.policies.as_slice() {
            [] => all().chain([avoiding]).collect(),
            asked => asked.to_vec(),
        };
        wanted.retain(|spec| spec.policy.steers());
        wanted
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("selection: {}", error::sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // Before anything starts a thread, which would stay behind in the old namespaces.
    if !geteuid().is_root() {
        bail!("programs are loaded and a network is made, so it needs root: cargo xtask bench");
    }
    sandbox::enter(Path::new(DEFAULT_BPFFS))?;
    let machine = Machine::this()?;
    let policies = options.steered();
    let mut bed = Bed::in_service(WEIGHTS.len(), options.service)?;
    let mut report = Report::new(machine, options.connections);
    println!("{}", report.machine);
    if options.wants(Only::Cost) {
        let rounds = options.rounds.unwrap_or(COST_ROUNDS);
        report.cost = cost::measure(&mut bed, &policies, rounds, options.connections)?;
        println!("\n{}", report::cost(&report));
    }
    if options.wants(Only::Rate) {
        let rounds = options.rounds.unwrap_or(RATE_ROUNDS);
        report.rate = rate::measure(&mut bed, &policies, rounds, options.connections)?;
        println!("\n{}", report::rate(&report));
    }
    if options.wants(Only::Curve) {
        let rounds = options.rounds.unwrap_or(CURVE_ROUNDS);
        report.curve = curve::measure(rounds, options.connections)?;
        println!("\n{}", report::curve(&report));
    }
    if options.wants(Only::Tracker) {
        let rounds = options.rounds.unwrap_or(TRACKER_ROUNDS);
        report.tracker = Some(tracker::measure(&mut bed, rounds, options.connections)?);
        println!("\n{}", report::tracker(&report));
    }
    if options.wants(Only::Scrape) {
        let rounds = options.rounds.unwrap_or(SCRAPE_ROUNDS);
        report.scrape = scrape::measure(rounds, options.connections)?;
        println!("\n{}", report::scrape(&report));
    }
    if options.wants(Only::Flows) {
        let rounds = options.rounds.unwrap_or(FLOWS_ROUNDS);
        report.flows = flows::measure(rounds, options.connections)?;
        println!("\n{}", report::flows(&report));
    }
    if options.wants(Only::Cost) || options.wants(Only::Rate) {
        println!("\n{}", report::audit(&report));
    }
    if let Some(path) = &options.json {
        json::write(path, &report)?;
    }
    Ok(())
}
