//! `balancer scale`: asks the agent of a group for more workers or fewer, and waits until it has them.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use balancer_common::MAX_MEMBERS;
use balancer_steering::{
    privilege,
    snapshot::{MemberInfo, MemberState},
    steering::Store,
};

use rustix::process::Signal;

use super::request::{Asked, ask, state_of};
use crate::{cli::ScaleArgs, commands::open_group, error::UsageError, render::say};

/// How often the group is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// Asks and waits.
pub fn scale(args: &ScaleArgs, store: &Store) -> Result<()> {
    let wanted = args.workers;
    if !(1..=MAX_MEMBERS).contains(&wanted) {
        return Err(UsageError::new(format_args!(
            "{wanted} workers cannot be run; choose 1 to {MAX_MEMBERS}"
        ))
        .into());
    }
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let otherwise =
        "start or end them; start or end some yourself, and those that come are steered";
    let Asked { agent, before } =
        ask(&mut steering, Signal::USR1, otherwise, |state| state.wanted = Some(wanted))?;
    let (name, pid) = (steering.name(), agent.pid);
    say(format_args!("{name}: {} workers, and {wanted} are asked for", before.workers))?;
    if before.is_reloading() {
        say(format_args!("{name}: a reload is under way; this begins when it has ended"))?;
    }
    let mut shown = None;
    loop {
        let lives = agent.is_alive();
        let state = state_of(&steering)?;
        let members = steering.snapshot()?.members;
        if state.wanted.is_none() {
            if state.workers != wanted {
                bail!(
                    "balancer PID {pid} keeps {} workers: its output says why, unless another command wanted that",
                    state.workers
                );
            }
            let far = Far::of(&members);
            if far.serving >= wanted && far.starting + far.leaving == 0 {
                return say(format_args!("{name}: {} workers serve", far.serving));
            }
            if shown != Some(far) {
                shown = Some(far);
                let Far { serving, starting, leaving } = far;
                say(format_args!("{name}: {serving} serve, {starting} start, {leaving} finish"))?;
            }
        }
        if !lives {
            bail!("balancer PID {pid} has ended");
        }
        thread::sleep(INTERVAL);
    }
}

/// How far it is: how many members do what.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Far {
    serving: u32,
    starting: u32,
    leaving: u32,
}

impl Far {
    fn of(members: &[MemberInfo]) -> Self {
        let mut far = Self::default();
        for member in members {
            match member.state {
                MemberState::Live | MemberState::Stalled | MemberState::Draining => {
                    far.serving += 1
                }
                MemberState::Starting => far.starting += 1,
                MemberState::Leaving => far.leaving += 1,
                MemberState::Dead | MemberState::Left => {}
            }
        }
        far
    }
}
