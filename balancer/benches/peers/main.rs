//! The workers of balancer beside what people put in front of several processes otherwise: HAProxy,
//! nginx, and nftables. In network namespaces of its own; needs root.

mod contender;
mod cpu_time;
mod figures;
#[path = "../common/group.rs"]
mod group;
#[path = "../common/json.rs"]
mod json;
mod network;
#[path = "../common/process_tree.rs"]
mod process_tree;
#[path = "../common/progress.rs"]
mod progress;
mod report;
#[path = "../common/statistics.rs"]
mod statistics;
mod trial;
mod workers;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use balancer::{cli::Cli, commands, error};
use balancer_lab::{
    arrivals::schedule, idle_inhibitor::IdleInhibitor, machine::Machine, sandbox,
    scenario::Scenario,
};
use balancer_steering::steering::DEFAULT_BPFFS;
use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use rustix::{
    mount::{MountFlags, mount},
    process::{Resource, geteuid, getrlimit, setrlimit},
};

use crate::{
    contender::{ALL, Contender, Ready},
    network::Network,
    report::{Loaded, Report},
    statistics::rotation,
    trial::Bed,
    workers::Workers,
};

/// What arrivals are drawn from.
const SEED: u64 = 1;

/// Put the same load on balancer, HAProxy, nginx and nftables
#[derive(Parser)]
#[command(name = "peers", bin_name = "cargo xtask bench peers")]
struct Options {
    /// Trials of each contender under each load
    #[arg(long, value_name = "N", default_value_t = 7,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: usize,
    /// One of the loads only
    #[arg(long, value_enum, value_name = "LOAD")]
    only: Option<Only>,
    /// Write every trial there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    /// A connection a request
    Short,
    /// Connections that stay
    LongLived,
    /// As many requests as can be served
    Saturated,
}

impl Options {
    fn wants(&self, load: &Scenario) -> bool {
        let name = |only: Only| only.to_possible_value().is_some_and(|v| v.get_name() == load.name);
        self.only.is_none_or(name)
    }
}

fn main() -> ExitCode {
    // The workers are this binary too, as they are balancer's own otherwise.
    let as_worker = env::args_os().nth(1).is_some_and(|first| first == workers::FIRST_ARGUMENT);
    let done = if as_worker {
        commands::dispatch(Cli::parse())
    } else {
        run(&Options::parse()).map(|()| ExitCode::SUCCESS)
    };
    done.unwrap_or_else(|error| {
        eprintln!("peers: {}", error::sentence(&error));
        ExitCode::FAILURE
    })
}

fn run(options: &Options) -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "programs are loaded and networks are made, so it needs root: cargo xtask bench peers"
        );
    }
    let contenders = present();
    allow_many_files()?;
    // Before anything starts a thread, which would stay behind in the old namespaces.
    sandbox::enter(Path::new(DEFAULT_BPFFS))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)
        .context("cannot mount a /run of our own, for the proxies")?;
    let network = Network::make()?;
    let mut report =
        Report { machine: Machine::this()?, rounds: options.rounds, loads: Vec::new() };
    println!("{}", report.machine);
    println!("median (and range) of {} rounds", report.rounds);

    let mut bed = Bed { network, workers: Workers::start()? };
    let ready = contenders.iter().map(|c| c.start()).collect::<Result<Vec<_>>>()?;
    let _awake = IdleInhibitor::keep()?;
    for load in trial::loads().into_iter().filter(|load| options.wants(load)) {
        let loaded = compare(load, report.machine.cpus, options.rounds, &mut bed, &ready)?;
        println!("\n{}", report::table(&loaded, &contenders));
        report.loads.push(loaded);
    }
    println!("\n{}", report::LEGEND);
    if let Some(path) = &options.json {
        json::write(path, &report)?;
    }
    Ok(())
}

/// Those whose programs are here. The others are missed aloud.
fn present() -> Vec<&'static Contender> {
    let here = |contender: &&Contender| {
        let missing = contender.missing();
        if !missing.is_empty() {
            let (name, packages) = (contender.name, missing.join(" "));
            eprintln!("\n!! {name} is left out; to compare it: apt-get install {packages} !!\n");
        }
        missing.is_empty()
    };
    ALL.iter().filter(here).collect()
}

/// A descriptor a connection, two in a proxy: for us, and for all that we start.
fn allow_many_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the number of open files")
}

/// One load, all rounds; each begins with the next contender.
fn compare(
    load: Scenario,
    cpus: usize,
    rounds: usize,
    bed: &mut Bed,
    ready: &[Ready],
) -> Result<Loaded> {
    let mut trials = Vec::new();
    for round in 0..=rounds {
        let schedule = schedule(&load, cpus, SEED, round as u64)?;
        progress::show(format_args!("{}: {round} of {rounds} rounds", load.name));
        for index in rotation(ready.len(), round) {
            let trial = bed.run(&ready[index], &load, &schedule);
            // Who has not served such a load yet takes memory first. That is not what is compared.
            if round > 0 {
                trials.push(trial);
            }
        }
    }
    progress::clear();
    Ok(Loaded { load, trials })
}
