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
mod request;
mod run;
mod scale;
mod status;
mod takeover;
mod top;
mod weight;

use std::{io, process::ExitCode};

use anyhow::{Context as _, Result};
use balancer_steering::{
    process::to_pid,
    steering::{Steering, Store},
};
use clap::CommandFactory as _;
use rustix::process::Signal;

use crate::{
    cli::{Cli, GroupArgs, Verb},
    operations::{self, Scope},
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
        | Verb::Scale(_)
        | Verb::Policy(_)
        | Verb::Weight(_)
        | Verb::Drain(_)
        | Verb::Resume(_)
        | Verb::Detach(_) => output::start(true),
        // They print nothing while they have a lock; and what becomes another program, or enters namespaces, has one thread.
        _ => {}
    }
    match cli.verb {
        Verb::Run(args) => run::run(args, &cli.bpffs, cli.log_level)?,
        Verb::Attach(args) => attach::attach(&args, &cli.bpffs, cli.log_level)?,
        Verb::Reload(args) => reload::reload(&args, &store)?,
        Verb::Scale(args) => scale::scale(&args, &store)?,
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

/// Prints a line about what was done.
fn say_line(line: String) -> Result<()> {
    render::say(format_args!("{line}"))
}

/// Opens what is meant: the group or the service that is named, or the only one.
fn open_scope(store: &Store, args: &GroupArgs) -> Result<Scope> {
    operations::open(store, args.group.as_deref(), args.service)
}

/// Opens a group that tells what is told of all: of a service, each has the same agent.
fn open_group(store: &Store, args: &GroupArgs) -> Result<Steering> {
    open_scope(store, args)?.groups.into_iter().next().context("no group is steered")
}
