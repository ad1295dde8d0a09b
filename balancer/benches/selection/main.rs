//! What steering costs, measured: one choice in the kernel, and what is left of the connections a
//! second that the kernel's own hash serves. In a network namespace of its own; needs root.

mod bed;
mod cost;
mod load;
mod progress;
mod rate;
mod report;
mod statistics;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use balancer::{error, machine::Machine, policy::Policy, sandbox, steering::DEFAULT_BPFFS};
use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use rustix::process::geteuid;

use crate::{bed::Bed, report::Report};

const COST_ROUNDS: usize = 30;
const RATE_ROUNDS: usize = 100;

/// Measure what the policies cost
#[derive(Parser)]
#[command(name = "selection")]
struct Options {
    /// Measure these policies only [default: all]
    #[arg(value_enum, value_name = "POLICY")]
    policies: Vec<Policy>,
    /// Rounds of each table [default: 30 for the cost, 100 for the rate]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: Option<usize>,
    /// Connections a policy and round
    #[arg(long, value_name = "N", default_value_t = 5_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    connections: u64,
    /// Measure one of the two only
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
}

impl Options {
    fn wants(&self, table: Only) -> bool {
        self.only.is_none_or(|only| only == table)
    }

    /// The policies that are asked for, without those that are measured anyway.
    fn steered(&self) -> Vec<Policy> {
        let asked = |policy: &Policy| self.policies.is_empty() || self.policies.contains(policy);
        Policy::value_variants().iter().copied().filter(bed::steers).filter(asked).collect()
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
    let mut bed = Bed::make()?;
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
    println!("\n{}", report::audit(&report));
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
