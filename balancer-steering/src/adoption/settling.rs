//! Which process accepts from a member's socket: not always the one that opened it, and not always the
//! same. The watching agent and the short-lived commands all ask here.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::error::Result;
use balancer_common::record::SlotState;

use super::{Attachment, Look};
use crate::{
    discovery,
    process::{self, Identity},
    snapshot::Snapshot,
    steering::{Change, Member, Steering},
};

/// How long a server may take from `listen` until the process that accepts is there.
const SETTLING: Duration = Duration::from_millis(500);

/// How often all members are checked for a worker that lives on, but has closed its socket, as the
/// workers of nginx do while they finish their last connections.
const AGAIN: Duration = Duration::from_secs(10);

/// A process that accepts from a member's socket, and is not the worker recorded for it.
#[derive(Debug)]
struct Heir {
    /// As recorded.
    member: Member,
    worker: Identity,
    /// The recorded worker has ended, or has closed the socket.
    succeeds: bool,
}

/// When a watching agent looks.
pub(super) struct Pace {
    /// When a member came whose worker may not be there yet.
    pub unsettled: Option<Instant>,
    /// When all members were last checked.
    checked: Instant,
    /// When no successor was found for a missing worker, and how long to wait before the next look,
    /// which reads all of /proc.
    vain: (Instant, Duration),
}

impl Pace {
    pub fn new() -> Self {
        let now = Instant::now();
        Self { unsettled: Some(now), checked: now, vain: (now, Duration::ZERO) }
    }
}

impl Attachment {
    /// As [`settle`], whenever that is due.
    ///
    /// # Errors
    /// If the group's state cannot be read or changed, or another process has the group's lock.
    pub fn settle(&mut self) -> Result<Look> {
        let Some(_lock) = self.steering.try_lock()? else { return Ok(Look::GivenBack) };
        let pace = &mut self.pace;
        let rested = pace.unsettled.is_some_and(|since| since.elapsed() > SETTLING);
        let all = pace.checked.elapsed() > AGAIN;
        if all {
            pace.checked = Instant::now();
        }
        let missing = is_missing(&self.steering, |member| all || member.state != SlotState::Live)?;
        let (since, wait) = pace.vain;
        if !rested && (!missing || since.elapsed() < wait) {
            return Ok(Look::Lines(Vec::new()));
        }
        pace.unsettled = pace.unsettled.filter(|_| !rested);
        let heirs = heirs(&self.steering)?;
        if heirs.is_empty() {
            let wait = if missing { (wait * 2).clamp(SETTLING, AGAIN) } else { Duration::ZERO };
            pace.vain = (Instant::now(), wait);
        } else {
            // The successor may hand the socket on, too.
            *pace = Pace { checked: pace.checked, ..Pace::new() };
        }
        record(&mut self.steering, &heirs).map(Look::Lines)
    }
}

/// Brings the records of a group of other programs' sockets up to date, if they do not know one of
/// these PIDs, or a worker in them no longer has its socket. Returns lines for the user.
///
/// # Errors
/// If the group's state cannot be read.
pub fn settle(change: &mut Change<'_>, pids: &[u32]) -> Result<Vec<String>> {
    let members = change.members();
    let is_known = |pid: &u32| members.iter().any(|member| member.worker.pid == *pid);
    let adopted = change.group().adopted;
    if !adopted || pids.iter().all(is_known) && !is_missing(change.steering(), |_| true)? {
        return Ok(Vec::new());
    }
    let heirs = heirs(change.steering())?;
    Ok(heirs.iter().filter_map(|heir| heir.record(change)).collect())
}

/// How a group is, with those that accept now in place of recorded workers: no agent may be there to record
/// them. Changes nothing.
///
/// # Errors
/// If the group's state cannot be read.
pub fn snapshot(steering: &Steering) -> Result<Snapshot> {
    let mut snapshot = steering.snapshot()?;
    for Heir { member, worker, .. } in present(steering)? {
        for shown in snapshot.members.iter_mut().filter(|shown| shown.slot == member.slot) {
            shown.pid = worker.pid;
        }
    }
    Ok(snapshot)
}

/// The processes that accept now in place of recorded workers that no longer have their sockets.
fn present(steering: &Steering) -> Result<Vec<Heir>> {
    let stale = steering.group()?.adopted && is_missing(steering, |_| true)?;
    if stale { heirs(steering) } else { Ok(Vec::new()) }
}

/// Whether a member has a socket and its worker has ended; or, of those that are to be checked for
/// it, no longer has the socket.
fn is_missing(steering: &Steering, check: impl Fn(&Member) -> bool) -> Result<bool> {
    let mut held = HashMap::new();
    let mut holds = |member: &Member| {
        let pid = member.worker.pid;
        let sockets = held.entry(pid).or_insert_with(|| process::sockets(pid));
        sockets.contains(&member.inode)
    };
    let accepts = |member: &Member| member.worker.is_alive() && (!check(member) || holds(member));
    Ok(!seated(steering)?.iter().all(accepts))
}

fn seated(steering: &Steering) -> Result<Vec<Member>> {
    let mut seated = Vec::new();
    for member in steering.members()? {
        if steering.is_seated(&member)? {
            seated.push(member);
        }
    }
    Ok(seated)
}

fn heirs(steering: &Steering) -> Result<Vec<Heir>> {
    let members = seated(steering)?;
    let mut accepting = discovery::accepting(members.iter().map(|member| member.inode));
    let heir = |member: Member| {
        let found = accepting.remove(&member.inode)?;
        let holds = found.holders.contains(&member.worker);
        // One guess is no better than another. A parent that only holds the sockets of its children
        // does not accept: it will start another child.
        let is_heir =
            found.worker != member.worker && !(holds && found.guessed) && !found.is_parent;
        is_heir.then_some(Heir { member, worker: found.worker, succeeds: !holds })
    };
    Ok(members.into_iter().filter_map(heir).collect())
}

fn record(steering: &mut Steering, heirs: &[Heir]) -> Result<Vec<String>> {
    if heirs.is_empty() {
        return Ok(Vec::new());
    }
    steering
        .change_locked(|change| Ok(heirs.iter().filter_map(|heir| heir.record(change)).collect()))
}

impl Heir {
    /// Notes it; a line for the user if it changes what is steered.
    fn record(&self, change: &mut Change<'_>) -> Option<String> {
        let Self { member, worker, succeeds } = self;
        if !succeeds {
            change.set_worker(member.slot, *worker);
            return None;
        }
        change.succeed(member.slot, *worker);
        let (slot, pid, before) = (member.slot, worker.pid, member.worker.pid);
        (member.state != SlotState::Live).then(|| {
            format!(
                "PID {pid} accepts in slot {slot} in place of the drained PID {before}, and is live"
            )
        })
    }
}
