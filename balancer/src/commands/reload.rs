//! `balancer reload`: asks the agent of a group to replace its workers, and waits until it has.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use balancer_steering::{
    agent_record::AgentState,
    group::GroupSpec,
    privilege,
    steering::{Steering, Store},
};
use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
};

use crate::{cli::ReloadArgs, commands::open_group, render::say};

/// How often the agent's state is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Asks and waits.
pub fn reload(args: &ReloadArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let lock = steering.lock_or_gone()?;
    let group = steering.group()?;
    refuse(steering.name(), &group)?;
    let Some((agent, handle)) = steering.agent()? else {
        bail!(
            "balancer PID {}, which ran {}, is gone; take it over first, with the command that began it \
             and --takeover: balancer run --listen {} --takeover",
            group.agent.pid,
            steering.name(),
            group.identity.address
        );
    };
    let before = steering.agent_state()?;
    let mut number = 0;
    // Else what a signal means would depend on where the agent was started.
    steering.tell(|state| number = state.ask(args.parallel))?;
    drop(lock);
    let name = steering.name();
    let pid = agent.pid;
    let ended = || format!("balancer PID {pid} has ended, and the reload of {name} with it");
    match pidfd_send_signal(&handle, Signal::HUP) {
        Err(Errno::SRCH) => bail!("{}", ended()),
        sent => sent.with_context(|| {
            format!("cannot ask balancer PID {pid} for a reload (run this as root)")
        })?,
    }
    let workers = before.workers;
    say(format_args!("{name}: balancer PID {pid} replaces its {workers} workers"))?;
    if before.begun > before.ended {
        say(format_args!(
            "{name}: a reload is under way already; this one begins when it has ended"
        ))?;
    }
    let mut shown = 0;
    loop {
        // Before what it told is read: that may be its last.
        let lives = agent.is_alive();
        let state = state(&steering)?;
        if state.begun >= number && state.replaced > shown {
            shown = state.replaced;
            say(format_args!("{name}: {shown} of {workers} replaced"))?;
        }
        match state.outcome(number) {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) => bail!("the reload of {name} failed, and the others serve on: {why}"),
            None if !lives => bail!("{}", ended()),
            None => thread::sleep(INTERVAL),
        }
    }
}

/// Whole, though it be written just now; also of a group whose pins are gone.
fn state(steering: &Steering) -> Result<AgentState> {
    let _lock = steering.lock()?;
    Ok(steering.agent_state()?)
}

fn refuse(name: &str, group: &GroupSpec) -> Result<()> {
    if group.adopted {
        bail!(
            "the servers of {name} were not started by balancer, so it cannot replace them; reload \
             them as they are reloaded, and those that come are steered"
        );
    }
    Ok(())
}
