//! `balancer drain` and `balancer resume`: no new connections for a worker, and again.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use balancer_common::record::SlotState;
use balancer_steering::{
    privilege,
    steering::{Remaining, Steering, Store, Watch},
    time_span::TimeSpan,
    who::Who,
};

use crate::{
    cli::{DrainArgs, ResumeArgs},
    commands::{open_group, say_line},
    operations,
    render::say,
};

/// How often is looked while connections are waited for.
const INTERVAL: Duration = Duration::from_millis(10);

/// How often a count that changes is shown, and whether a worker was resumed is looked at.
const SHOWN: Duration = Duration::from_secs(1);

/// Takes workers out of the table, and waits for their connections if that is asked for.
pub fn drain(args: &DrainArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    operations::drain(&mut steering, &args.whom, say_line)?;
    if args.wait { wait(args, &steering) } else { Ok(()) }
}

/// Puts workers back into the table.
pub fn resume(args: &ResumeArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    operations::resume(&mut steering, &args.whom, say_line)
}

/// A worker that is waited for.
struct Waiting {
    who: Who,
    slots: Vec<u32>,
    watch: Watch,
    /// What was shown last, and when.
    shown: Option<(Remaining, Instant)>,
}

fn wait(args: &DrainArgs, steering: &Steering) -> Result<()> {
    let name = steering.name();
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
    let (members, unit) = (steering.members()?, steering.snapshot()?.unit());
    let mut waiting = Vec::new();
    for &who in &args.whom {
        let own = members.iter().filter(|member| who.is(member.slot, member.worker.pid));
        let slots: Vec<u32> = own.map(|member| member.slot).collect();
        waiting.push(Waiting { who, watch: steering.watch(&slots)?, slots, shown: None });
    }
    let mut checked = Instant::now();
    loop {
        if checked.elapsed() >= SHOWN {
            checked = Instant::now();
            refuse_resumed(steering, &waiting)?;
        }
        let mut left = Vec::new();
        for mut worker in waiting {
            let remaining = worker.watch.look()?;
            if args.idle_grace.lets_go(remaining) {
                let left = match remaining.open {
                    0 => format!("no {} left", unit.trim_end_matches('s')),
                    open => {
                        format!("only idle connections left: {open}, quiet for {}", args.idle_grace)
                    }
                };
                say(format_args!("{name}: {} has {left}", worker.who))?;
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

fn in_vain(group: &str, timeout: TimeSpan, left: &[(Waiting, Remaining)]) -> String {
    let each = |(worker, remaining): &(Waiting, Remaining)| {
        format!("{} has connections left ({remaining})", worker.who)
    };
    let whom: String = left.iter().map(|(worker, _)| format!(" {}", worker.who.typed())).collect();
    format!(
        "after {timeout} {}; they go on, and no new ones come; wait longer with `balancer drain \
         --wait --group {group}{whom}`, or undo it with `balancer resume --group {group}{whom}`",
        left.iter().map(each).collect::<Vec<_>>().join(", ")
    )
}

impl Waiting {
    fn show(&mut self, group: &str, remaining: Remaining) -> Result<()> {
        // How long it has been quiet changes all the time.
        let shown = |last: Remaining| last.to_string() == remaining.to_string();
        if self.shown.is_some_and(|(last, at)| shown(last) || at.elapsed() < SHOWN) {
            return Ok(());
        }
        self.shown = Some((remaining, Instant::now()));
        say(format_args!("{group}: {} has connections left: {remaining}", self.who))
    }
}

fn refuse_resumed(steering: &Steering, waiting: &[Waiting]) -> Result<()> {
    for member in steering.members()?.iter().filter(|member| member.state == SlotState::Live) {
        if let Some(worker) = waiting.iter().find(|worker| worker.slots.contains(&member.slot)) {
            bail!(
                "{} was resumed meanwhile, so its connections are no longer waited for",
                worker.who
            );
        }
    }
    Ok(())
}
