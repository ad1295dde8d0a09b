//! The agent of one group, or of all groups of a service: one event loop, in which each group is watched, and
//! ends, by itself.

use std::panic::resume_unwind;

use anyhow::{Result, bail};
use balancer_steering::steering::{LOG_DEBUG, Logs, Store};
use tokio::{
    runtime::Runtime,
    task::{JoinSet, LocalSet},
};

use super::{
    begin::{self, Begun},
    settle,
};
use crate::{
    agent::{Adopted, Ending, Signals, keep_up},
    cli::AttachArgs,
    console::Console,
    log_lines, render,
};

/// Lines of the live view for servers that come later.
const ROOM: usize = 4;

/// A group, and what its agent needs.
struct Watched {
    adopted: Adopted,
    logs: Logs,
    signals: Signals,
    console: Console,
}

/// Watches all of them until the last has ended. Whatever happens, nothing stays attached without us.
pub fn stay(
    runtime: &Runtime,
    begun: Vec<Begun>,
    signals: Vec<Signals>,
    args: &AttachArgs,
    store: &Store,
) -> Result<()> {
    let line = settle::settle_all(&begun, args.service);
    let consoles = consoles(args, &begun);
    let mut watched: Vec<Watched> = begun
        .into_iter()
        .zip(signals)
        .zip(consoles)
        .map(|((one, signals), console)| Watched {
            adopted: Adopted::of(one.attachment),
            logs: one.logs,
            signals,
            console,
        })
        .collect();
    let ready = watched.iter_mut().try_for_each(|one| one.adopted.watch()).and(line);
    let line = match ready {
        Ok(line) => line,
        Err(error) => {
            for one in watched {
                if let Err(error) = begin::end(one.adopted.into_attachment(), store) {
                    tracing::error!("{error:#}");
                }
            }
            return Err(error);
        }
    };
    if !args.quiet {
        render::say(format_args!("{line}"))?;
    }
    runtime.block_on(LocalSet::new().run_until(keep_all(watched, args, store)))
}

fn consoles(args: &AttachArgs, begun: &[Begun]) -> Vec<Console> {
    let members = |one: &Begun| one.steering().members().map_or(0, |members| members.len());
    let room = begun.iter().map(members).max().unwrap_or_default() + ROOM;
    match args.service {
        Some(service) => {
            let names: Vec<_> = begun.iter().map(|one| one.steering().name().to_owned()).collect();
            Console::parts(args.quiet, room, service, &names)
        }
        None => begun.iter().map(|_| Console::start(args.quiet, room)).collect(),
    }
}

async fn keep_all(watched: Vec<Watched>, args: &AttachArgs, store: &Store) -> Result<()> {
    let mut groups = JoinSet::new();
    for one in watched {
        groups.spawn_local(keep(one, args.quiet, store.clone()));
    }
    let mut failed = false;
    while let Some(ended) = groups.join_next().await {
        match ended.unwrap_or_else(|error| resume_unwind(error.into_panic())) {
            Err(error) if groups.is_empty() && !failed => return Err(error),
            Err(error) => {
                failed = true;
                tracing::error!("{error:#}");
            }
            Ok(()) => {}
        }
    }
    if failed {
        bail!("not all groups were watched and given back in order, for the reasons above");
    }
    Ok(())
}

async fn keep(watched: Watched, quiet: bool, store: Store) -> Result<()> {
    let Watched { mut adopted, logs, mut signals, mut console } = watched;
    let group = adopted.steering().group();
    if group.as_ref().is_ok_and(|group| group.log_level >= LOG_DEBUG) {
        tokio::spawn(log_lines::forward(logs));
    }
    let outcome = keep_up(&mut adopted, &mut signals, &mut console).await;
    drop(console);
    let attachment = adopted.into_attachment();
    let snapshot = attachment.steering().snapshot();
    let summary = snapshot.map(|snapshot| render::table::summary(&snapshot));
    begin::end(attachment, &store)?;
    match outcome? {
        Ending::Told if quiet => Ok(()),
        Ending::Told => render::say(format_args!("{}", summary?)),
        Ending::GivenBack if quiet => Ok(()),
        Ending::GivenBack => render::say(format_args!(
            "{} was given back to the kernel's hash by another command; nothing is left to watch there",
            group?.identity
        )),
    }
}
