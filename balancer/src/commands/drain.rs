//! `balancer drain` and `balancer resume`: no new connections for a worker, and again.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use balancer_ebpf::record::SlotState;

use crate::{
    cli::{DrainArgs, ResumeArgs},
    commands::{open_group, vanished},
    discovery::{self, Arriving, Drained, Remaining},
    drain,
    patience::Patience,
    privilege,
    render::say,
    steering::{Steering, Store},
};

/// How often a worker's connections are counted while they are waited for.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often a count that changes is shown.
const SHOWN: Duration = Duration::from_secs(1);

/// Takes workers out of the table, and waits for their connections if that is asked for.
pub fn drain(args: &DrainArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    let group = steering.group()?;
    let members = steering.snapshot()?.members;
    let slots = drain::to_drain(steering.name(), group.policy, &members, &args.pids)?;
    set_state(&mut steering, &slots, SlotState::Draining)?;
    drop(lock);
    for pid in &args.pids {
        say(format_args!("{}: PID {pid} is draining", steering.name()))?;
    }
    if args.wait { wait(args, &steering) } else { Ok(()) }
}

/// Puts workers back into the table.
pub fn resume(args: &ResumeArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let _lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    let members = steering.snapshot()?.members;
    let slots = drain::to_resume(steering.name(), &members, &args.pids)?;
    set_state(&mut steering, &slots, SlotState::Live)?;
    for pid in &args.pids {
        say(format_args!("{}: PID {pid} is live", steering.name()))?;
    }
    Ok(())
}

fn set_state(steering: &mut Steering, slots: &[u32], state: SlotState) -> Result<()> {
    for &slot in slots {
        steering.set_state(slot, state)?;
    }
    steering.publish()
}

/// A worker that is waited for.
struct Waiting {
    pid: u32,
    drained: Drained,
    arriving: Arriving,
    /// What was shown last, and when.
    shown: Option<(Remaining, Instant)>,
}

fn wait(args: &DrainArgs, steering: &Steering) -> Result<()> {
    let (name, group) = (steering.name(), steering.group()?.identity);
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
    let mut waiting = Vec::new();
    for &pid in &args.pids {
        let Some(drained) = drained(steering, pid)? else { continue };
        let arriving = discovery::arriving(&group, &drained)?;
        waiting.push(Waiting { pid, drained, arriving, shown: None });
    }
    loop {
        let mut left = Vec::new();
        for mut worker in waiting {
            if worker.drained.worker.is_alive() && is_resumed(steering, &worker.drained)? {
                bail!("PID {} was resumed meanwhile; it is not waited for any more", worker.pid);
            }
            let remaining = discovery::remaining(&group, &worker.drained, &worker.arriving)?;
            if remaining.is_nothing() {
                say(format_args!("{name}: PID {} has no connection left", worker.pid))?;
                continue;
            }
            worker.show(name, remaining)?;
            left.push((worker, remaining));
        }
        if left.is_empty() {
            return Ok(());
        }
        if let (Some(timeout), Some(deadline)) = (args.timeout, deadline)
            && Instant::now() >= deadline
        {
            bail!(in_vain(name, timeout, &left));
        }
        waiting = left.into_iter().map(|(worker, _)| worker).collect();
        thread::sleep(INTERVAL);
    }
}

fn in_vain(group: &str, timeout: Patience, left: &[(Waiting, Remaining)]) -> String {
    let each = |(worker, remaining): &(Waiting, Remaining)| {
        format!("PID {} has connections left ({remaining})", worker.pid)
    };
    let pids: String = left.iter().map(|(worker, _)| format!(" {}", worker.pid)).collect();
    format!(
        "after {timeout} {}; they go on, and no new ones come: wait longer with `balancer drain \
         --wait --group {group}{pids}`, or undo it with `balancer resume --group {group}{pids}`",
        left.iter().map(each).collect::<Vec<_>>().join(", ")
    )
}

impl Waiting {
    fn show(&mut self, group: &str, remaining: Remaining) -> Result<()> {
        if self.shown.is_some_and(|(last, at)| last == remaining || at.elapsed() < SHOWN) {
            return Ok(());
        }
        self.shown = Some((remaining, Instant::now()));
        say(format_args!("{group}: PID {} has connections left: {remaining}", self.pid))
    }
}

/// `None` where it ended since it was drained, and was taken out.
fn drained(steering: &Steering, pid: u32) -> Result<Option<Drained>> {
    let (own, others): (Vec<_>, Vec<_>) =
        steering.members()?.into_iter().partition(|member| member.worker.pid == pid);
    Ok(own.first().map(|first| Drained {
        worker: first.worker,
        cookies: own.iter().map(|member| member.cookie).collect(),
        others: others.iter().map(|member| member.worker.pid).collect(),
    }))
}

fn is_resumed(steering: &Steering, drained: &Drained) -> Result<bool> {
    let members = steering.members()?;
    let own = members.iter().filter(|member| drained.cookies.contains(&member.cookie));
    Ok(own.into_iter().any(|member| member.state == SlotState::Live))
}
