//! What the kernel sees of requests: whether it is what clients see, with servers as people have them; and
//! what it costs to look. In a network namespace of its own; needs root.

mod accuracy;
mod client;
mod cost;
#[path = "../common/group.rs"]
mod group;
#[path = "../common/json.rs"]
mod json;
mod load;
mod own_server;
#[path = "../common/process_tree.rs"]
mod process_tree;
#[path = "../common/progress.rs"]
mod progress;
mod report;
mod rows;
mod server;
#[path = "../common/statistics.rs"]
mod statistics;
mod steered;
#[path = "../common/table.rs"]
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};
use balancer::error;
use balancer_lab::{machine::Machine, sandbox};
use balancer_steering::steering::{DEFAULT_BPFFS, Store};
use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use rustix::process::geteuid;

use crate::report::Report;

/// Measure what the kernel sees of requests
#[derive(Parser)]
#[command(name = "requests", bin_name = "cargo xtask bench requests")]
struct Options {
    /// Rounds of the cost, each with the request tracker off and on
    #[arg(long, value_name = "N", default_value_t = 60,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: usize,
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
    /// Times and counts of the kernel beside those of the client
    Accuracy,
    /// Requests a second with the request tracker on and off
    Cost,
}

impl Options {
    fn wants(&self, part: Only) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("requests: {}", error::sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "programs are loaded and a network is made, so it needs root: cargo xtask bench requests"
        );
    }
    // Before anything starts a thread, which would stay behind in the old namespaces.
    sandbox::enter(Path::new(DEFAULT_BPFFS))?;
    let store = Store::prepare(Path::new(DEFAULT_BPFFS))?;
    let mut report = Report::new(Machine::this()?);
    println!("{}", report.machine);
    if options.wants(Only::Accuracy) {
        report.accuracy = accuracy::measure(&store)?;
        println!("\n{}", report::accuracy(&report));
    }
    if options.wants(Only::Cost) {
        report.cost = cost::measure(&store, options.rounds)?;
        println!("\n{}", report::cost(&report));
    }
    if let Some(path) = &options.json {
        json::write(path, &report)?;
    }
    Ok(())
}
