//! The verbs, a file each: from parsed arguments to what is done and printed.

mod attach;
pub mod claim;
mod compare;
mod compare_live;
mod detach;
mod doctor;
mod drain;
mod groups;
mod metrics;
mod policy;
mod reload;
mod run;
mod status;
mod takeover;
mod top;
mod weight;

use std::{io, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use balancer_steering::{
    adoption::settling::settle,
    process::to_pid,
    steering::{Steering, Store},
};
use clap::CommandFactory as _;
use rustix::process::Signal;

use crate::{
    cli::{Cli, GroupArgs, Verb},
    output, parent, render, worker,
};

/// Does what the command line says.
///
/// # Errors
/// Says what was tried, on what, and what to do next.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    if let Some(parent) = cli.end_with {
        parent::end_with(to_pid(parent), Signal::TERM).context("cannot ask to end with it")?;
    }
    let store = Store::at(&cli.bpffs);
    match &cli.verb {
        Verb::Run(_) => output::start(false),
        Verb::Attach(args) => output::start(args.once),
        Verb::Metrics(args) if args.listen.is_some() => output::start(false),
        Verb::Reload(_)
        | Verb::Policy(_)
        | Verb::Weight(_)
        | Verb::Drain(_)
        | Verb::Resume(_)
        | Verb::Detach(_) => output::start(true),
        // They take no lock; and what becomes another program, or enters namespaces, has one thread.
        _ => {}
    }
    match cli.verb {
        Verb::Run(args) => run::run(args, &cli.bpffs, cli.log_level)?,
        Verb::Attach(args) => attach::attach(&args, &cli.bpffs, cli.log_level)?,
        Verb::Reload(args) => reload::reload(&args, &store)?,
        Verb::Status(args) => status::status(&args, &store)?,
        Verb::Top(args) => top::top(&args, &store)?,
        Verb::Groups(args) => groups::groups(&args, &store)?,
        Verb::Policy(args) => policy::policy(&args, &store)?,
        Verb::Weight(args) => weight::weight(&args, &store)?,
        Verb::Drain(args) => drain::drain(&args, &store)?,
        Verb::Resume(args) => drain::resume(&args, &store)?,
        Verb::Detach(args) => detach::detach(&args, &store)?,
        Verb::Compare(args) => return compare::compare(&args, &cli.bpffs),
        Verb::Metrics(args) => metrics::metrics(&args, &store)?,
        Verb::Doctor => return doctor::doctor(&cli.bpffs),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "balancer", &mut io::stdout());
        }
        Verb::Worker(args) => {
            return worker::run(&args, &store.directory(&args.group));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what became of a group.
fn say_lines(steering: &Steering, mut lines: impl Iterator<Item = String>) -> Result<()> {
    lines.try_for_each(|line| render::say(format_args!("{}: {line}", steering.name())))
}

const MAKES_ONE: &str = "`balancer run` or `balancer attach` creates one";

/// Opens the group that is meant: the one named, or the only one. If an experiment on it was abandoned, what
/// was in force before is put back.
fn open_group(store: &Store, args: &GroupArgs) -> Result<Steering> {
    let names = store.names()?;
    let name = match (&args.group, names.as_slice()) {
        (Some(name), _) if names.contains(name) => name,
        (Some(name), []) => {
            bail!("there is no group {name}, nor any other group; {MAKES_ONE}")
        }
        (Some(name), _) => bail!("there is no group {name}; the groups are {}", names.join(", ")),
        (None, [only]) => only,
        (None, []) => bail!("no group is steered; {MAKES_ONE}"),
        (None, _) => {
            bail!("there are several groups; name one with --group: {}", names.join(", "))
        }
    };
    let mut steering = Steering::open(store, name)?;
    match steering.restore() {
        Ok(None) => {}
        Ok(Some(abandoned)) => {
            tracing::warn!("{}", render::policy::abandoned_line(steering.name(), &abandoned));
        }
        Err(error) => tracing::warn!(
            "{}: an experiment was abandoned, and what was in force before cannot be put back: {error:#}",
            steering.name()
        ),
    }
    Ok(steering)
}
