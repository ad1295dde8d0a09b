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
    commands::{open_scope, say_line},
    operations::{self, Scope},
    render::say,
};

/// How often is looked while connections are waited for.
const INTERVAL: Duration = Duration::from_millis(10);

/// How often a count that changes is shown, and whether a worker was resumed is looked at.
const SHOWN: Duration = Duration::from_secs(1);

/// Takes workers out of the table, and waits for their connections if that is asked for.
pub fn drain(args: &DrainArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut scope = open_scope(store, &args.group)?;
    operations::drain(&mut scope, &args.whom, say_line)?;
    if args.wait { wait(args, &scope) } else { Ok(()) }
}

/// Puts workers back into the table.
pub fn resume(args: &ResumeArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut scope = open_scope(store, &args.group)?;
    operations::resume(&mut scope, &args.whom, say_line)
}

/// A worker that is waited for, in one group.
struct Waiting<'a> {
    who: Who,
    group: &'a Steering,
    /// What is counted there.
    unit: &'static str,
    slots: Vec<u32>,
    watch: Watch,
    /// What was shown last, and when.
    shown: Option<(Remaining, Instant)>,
}

fn wait(args: &DrainArgs, scope: &Scope) -> Result<()> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
    let mut waiting = Vec::new();
    for group in &scope.groups {
        let (members, unit) = (group.members()?, group.snapshot()?.unit());
        for &who in &args.whom {
            let own = members.iter().filter(|member| who.is(member.slot, member.worker.pid));
            let slots: Vec<u32> = own.map(|member| member.slot).collect();
            // Of a service, a worker need not be in all groups.
            if !slots.is_empty() {
                waiting.push(Waiting {
                    who,
                    group,
                    unit,
                    watch: group.watch(&slots)?,
                    slots,
                    shown: None,
                });
            }
        }
    }
    let mut checked = Instant::now();
    loop {
        if checked.elapsed() >= SHOWN {
            checked = Instant::now();
            waiting.iter().try_for_each(refuse_resumed)?;
        }
        let mut left = Vec::new();
        for mut worker in waiting {
            let remaining = worker.watch.look()?;
            if args.idle_grace.lets_go(remaining) {
                let left = match remaining.open {
                    0 => format!("no {} left", worker.unit.trim_end_matches('s')),
                    open => {
                        format!("only idle connections left: {open}, quiet for {}", args.idle_grace)
                    }
                };
                say(format_args!("{}: {} has {left}", worker.group.name(), worker.who))?;
                continue;
            }
            worker.show(remaining)?;
            left.push((worker, remaining));
        }
        if left.is_empty() {
            return Ok(());
        }
        if let (Some(timeout), Some(deadline)) = (args.timeout, deadline)
            && Instant::now() >= deadline
        {
            bail!(in_vain(scope, timeout, &left));
        }
        waiting = left.into_iter().map(|(worker, _)| worker).collect();
        thread::sleep(INTERVAL);
    }
}

fn in_vain(scope: &Scope, timeout: TimeSpan, left: &[(Waiting<'_>, Remaining)]) -> String {
    let several = scope.groups.len() > 1;
    let each = |(worker, remaining): &(Waiting<'_>, Remaining)| {
        let place = if several { format!(" in {}", worker.group.name()) } else { String::new() };
        format!("{} has {} left{place} ({remaining})", worker.who, worker.unit)
    };
    let mut whom: Vec<String> = left.iter().map(|(worker, _)| worker.who.typed()).collect();
    whom.sort_unstable();
    whom.dedup();
    let (whom, typed) = (whom.join(" "), scope.typed());
    format!(
        "after {timeout} {}; they go on, and no new ones come; wait longer with `balancer drain \
         --wait {typed} {whom}`, or undo it with `balancer resume {typed} {whom}`",
        left.iter().map(each).collect::<Vec<_>>().join(", ")
    )
}

impl Waiting<'_> {
    fn show(&mut self, remaining: Remaining) -> Result<()> {
        // How long it has been quiet changes all the time.
        let shown = |last: Remaining| last.to_string() == remaining.to_string();
        if self.shown.is_some_and(|(last, at)| shown(last) || at.elapsed() < SHOWN) {
            return Ok(());
        }
        self.shown = Some((remaining, Instant::now()));
        let (group, who, unit) = (self.group.name(), self.who, self.unit);
        say(format_args!("{group}: {who} has {unit} left: {remaining}"))
    }
}

fn refuse_resumed(waiting: &Waiting<'_>) -> Result<()> {
    let members = waiting.group.members()?;
    let mut live = members.iter().filter(|member| member.state == SlotState::Live);
    if live.any(|member| waiting.slots.contains(&member.slot)) {
        bail!("{} was resumed meanwhile, so its connections are no longer waited for", waiting.who);
    }
    Ok(())
}
