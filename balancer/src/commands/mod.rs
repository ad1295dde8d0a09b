//! The verbs, a file each: from parsed arguments to what is done and printed.

mod attach;
mod audit;
pub mod claim;
mod compare;
mod detach;
mod doctor;
mod drain;
mod groups;
mod growth;
mod hangup;
mod policy;
mod reload;
mod run;
mod status;
mod supervise;
mod takeover;
mod weight;

use std::{io, process::ExitCode};

use anyhow::{Result, anyhow, bail};
use clap::CommandFactory as _;

use crate::{
    cli::{Cli, GroupArgs, Verb},
    handover, machine,
    policy::Policy,
    steering::{Steering, Store},
    worker,
};

/// Does what the command line says.
///
/// # Errors
/// Says what was tried, on what, and what to do next.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    let store = Store::at(&cli.bpffs);
    match cli.verb {
        Verb::Run(args) => run::run(args, &cli.bpffs, cli.log_level)?,
        Verb::Attach(args) => attach::attach(&args, &cli.bpffs, cli.log_level)?,
        Verb::Reload(args) => reload::reload(&args, &store)?,
        Verb::Status(args) => status::status(&args, &store)?,
        Verb::Groups(args) => groups::groups(&args, &store)?,
        Verb::Policy(args) => policy::policy(&args, &store)?,
        Verb::Weight(args) => weight::weight(&args, &store)?,
        Verb::Drain(args) => drain::drain(&args, &store)?,
        Verb::Resume(args) => drain::resume(&args, &store)?,
        Verb::Detach(args) => detach::detach(&args, &store)?,
        Verb::Compare(args) => return compare::compare(&args, &cli.bpffs),
        Verb::Doctor => return doctor::doctor(&cli.bpffs),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "balancer", &mut io::stdout());
        }
        Verb::ExecWithSocket(args) => {
            return Ok(handover::exec(&args)?);
        }
        Verb::Worker(args) => {
            return worker::run(&args, &store.directory(&args.group));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what to do where the policy `cpu` has nothing to go by.
fn warn_if_unpinned(steering: &Steering) -> Result<()> {
    let members = steering.members()?;
    let pinned = members.iter().any(|member| machine::only_cpu(member.worker.pid).is_some());
    if steering.group()?.policy == Policy::Cpu && !pinned {
        tracing::warn!(
            "no worker of {} is pinned to one CPU, so all take turns; start them with `balancer run \
             --pin`, or pin them (nginx: worker_cpu_affinity; others: `taskset -pc CPU PID`) and say \
             `balancer policy cpu`",
            steering.name()
        );
    }
    Ok(())
}

const MAKES_ONE: &str = "`balancer run` or `balancer attach` makes one";

/// Opens the group that is meant: the one named, or the only one.
fn open_group(store: &Store, args: &GroupArgs) -> Result<Steering> {
    let names = store.names()?;
    let name = match (&args.group, names.as_slice()) {
        (Some(name), _) if names.contains(name) => name,
        (Some(name), []) => {
            bail!("there is no group {name}, nor any other; {MAKES_ONE}")
        }
        (Some(name), _) => bail!("there is no group {name}; there are: {}", names.join(", ")),
        (None, [only]) => only,
        (None, []) => bail!("no group is steered; {MAKES_ONE}"),
        (None, _) => {
            bail!("there are several groups: name one with --group ({})", names.join(", "))
        }
    };
    Steering::open(store, name)
}

/// What to say where a group vanished between being found and being locked.
fn vanished(steering: &Steering) -> anyhow::Error {
    anyhow!(
        "the group {} was given back to the kernel just now; nothing was changed",
        steering.name()
    )
}
