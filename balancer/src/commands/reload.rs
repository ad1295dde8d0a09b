//! `balancer reload`: asks the agent of a group to replace its workers, and waits until it has.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use balancer_steering::{agent_record::AgentState, privilege, steering::Store};

use rustix::process::Signal;

use super::request::{Asked, ask, state_of};
use crate::{cli::ReloadArgs, commands::open_group, render::say};

/// How often the agent's state is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Asks and waits.
pub fn reload(args: &ReloadArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let mut number = 0;
    let note = |state: &mut AgentState| number = state.ask(args.parallel);
    let Asked { agent, before } = ask(
        &mut steering,
        Signal::HUP,
        "replace them; reload them as they are reloaded, and those that come are steered",
        note,
    )?;
    let (name, pid) = (steering.name(), agent.pid);
    let ended = || format!("balancer PID {pid} has ended, and the reload of {name} with it");
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
        let state = state_of(&steering)?;
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
