//! Changing a group: one lock, one read, one write, one table, one grace period.
//!
//! A [`Change`] is what the group is to become. It is read once, changed in memory by a closure that may
//! refuse, and then written: what programs are asked to do last comes last, so that whatever fails on the
//! way leaves a group that works.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    slice,
};

use balancer_common::record::{MemberRecord, SlotState};

use super::{
    Member, Steering,
    object::{self, Program},
    observing::needs_tracker,
    publishing,
};
use crate::{
    agent_record::AgentState,
    error::{Error, Result, bail},
    group::GroupSpec,
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
    snapshot::Snapshot,
    weight::Weight,
};

/// What a group is to become.
pub struct Change<'a> {
    steering: &'a Steering,
    plan: Plan,
}

/// What a group was, and what it is to be.
struct Plan {
    before: Image,
    after: Image,
    /// Whether a policy was asked for, be it the one in force: its program is attached anew.
    attaches: bool,
}

/// All that is recorded of a group.
#[derive(Clone)]
struct Image {
    group: GroupSpec,
    agent: AgentState,
    records: Box<[MemberRecord]>,
}

/// Changes several groups under their locks, all of them or none: `plan` looks at all, refuses or says what is
/// to become of each. If it refuses, or what one of them needs cannot be had, nothing is changed; if the kernel
/// refuses one later, those before it are put back. The groups are in the order of their names, so that two
/// callers never wait for each other.
///
/// # Errors
/// Returns [`ErrorKind::Gone`](crate::error::ErrorKind::Gone) if one of them was given back to the kernel, what
/// `plan` returns, or an error if the kernel refuses.
pub fn change_all<T, E: From<Error>>(
    groups: &mut [Steering],
    plan: impl FnOnce(&mut [Change<'_>]) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let _locks = groups.iter().map(Steering::lock_or_gone).collect::<Result<Vec<_>>>()?;
    change_all_locked(groups, plan)
}

fn change_all_locked<T, E: From<Error>>(
    groups: &mut [Steering],
    plan: impl FnOnce(&mut [Change<'_>]) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let mut changes = groups.iter().map(Change::of).collect::<Result<Vec<_>>>()?;
    let result = plan(&mut changes)?;
    let plans: Vec<Plan> = changes.into_iter().map(|change| change.plan).collect();

    // Before anything is changed: what may be refused.
    let sockets = groups.iter().zip(&plans).map(|(group, plan)| group.prepare(plan));
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    for index in 0..groups.len() {
        let done = groups[index].carry_out(&plans[index], sockets[index].as_ref());
        if let Err(error) = done {
            // Of one alone the table is still the old one.
            let begun = if groups.len() > 1 { index + 1 } else { 0 };
            for (group, plan) in groups[..begun].iter_mut().zip(plans).rev() {
                group.undo(plan);
            }
            return Err(error.into());
        }
    }
    Ok(result)
}

impl Steering {
    /// Changes the group under its lock: `plan` looks at it, refuses or says what is to become of it, and
    /// that is then done in one step. If `plan` refuses, nothing is changed. Nothing in it may wait.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Gone`](crate::error::ErrorKind::Gone) if the group was given back to the
    /// kernel, what `plan` returns, or an error if the kernel refuses.
    pub fn change<T, E: From<Error>>(
        &mut self,
        plan: impl FnOnce(&mut Change<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let _lock = self.lock_or_gone()?;
        self.change_locked(plan)
    }

    /// As [`Steering::change`], for a caller that has the group's lock.
    ///
    /// # Errors
    /// As [`Steering::change`].
    pub fn change_locked<T, E: From<Error>>(
        &mut self,
        plan: impl FnOnce(&mut Change<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        change_all_locked(slice::from_mut(self), |changes| plan(&mut changes[0]))
    }

    fn carry_out(&mut self, plan: &Plan, socket: Option<&OwnedFd>) -> Result<()> {
        let Plan { before, after, attaches } = plan;
        // A takeover in the middle knows by this which of two live members is one too many.
        if after.agent != before.agent && after.agent.leaving.is_some() {
            self.maps.set_agent(&(&after.agent).into())?;
        }
        if after.records != before.records {
            self.maps.members.write(&after.records)?;
            self.end_tenancies(&before.records, &after.records)?;
        }
        if after.group != before.group {
            self.maps.set_group(&after.group)?;
        }
        if after.group.options.load != before.group.options.load {
            self.complete_words()?;
        }
        if *attaches || shares(&after.records) != shares(&before.records) {
            self.publish()?;
        }
        if let Some(socket) = socket
            && let Err(error) = self.attach(socket.as_fd())
        {
            self.maps.set_group(&before.group)?;
            self.publish()?;
            return Err(error);
        }
        if *attaches && !before.group.policy.steers() {
            self.maps.loads.forget_choices();
        }
        if after.agent != before.agent && after.agent.leaving.is_none() {
            self.maps.set_agent(&(&after.agent).into())?;
        }
        if needs_tracker(&before.group) && !needs_tracker(&after.group) {
            self.rest_tracker()?;
        }
        if workers(&after.records) != workers(&before.records) {
            self.join_service()?;
        }
        Ok(())
    }

    /// Undoes a change that was carried out, because that of another group was not. The other error is what the
    /// caller is told of.
    fn undo(&mut self, plan: Plan) {
        let undo = Plan { before: plan.after, after: plan.before, ..plan };
        let prepared = self.prepare(&undo);
        let undone = prepared.and_then(|socket| self.carry_out(&undo, socket.as_ref()));
        if let Err(error) = undone {
            tracing::warn!(
                "the group {} was changed, and cannot be put back as it was: {error}",
                self.name
            );
        }
    }

    /// Loads the program of a policy, and finds a socket to attach it through; `None` if no policy was asked
    /// for, or the kernel's group is gone, whose next first socket gets the program.
    fn prepare(&self, plan: &Plan) -> Result<Option<OwnedFd>> {
        let wanted = &plan.after.group;
        if !plan.attaches {
            return Ok(None);
        }
        self.track_for(wanted)?;
        if Program::pinned(wanted, &self.directory)?.is_none() {
            object::load(&self.directory, wanted)?;
        }
        let socket = self.duplicate_any_socket()?;
        if socket.is_none() && self.has_sockets()? {
            bail!(
                "the group {} has sockets, but no process is seen to have them open, so its program \
                 cannot be changed; run this as root, in the PID namespace of its workers",
                self.name
            );
        }
        Ok(socket)
    }

    /// Slots that have become vacant count no connections any more; what was in their queues is in those
    /// of others.
    fn end_tenancies(&mut self, before: &[MemberRecord], after: &[MemberRecord]) -> Result<()> {
        let vacant = |record: &MemberRecord| record.state == SlotState::Vacant as u8;
        let mut any = false;
        for (slot, (before, after)) in (0..).zip(before.iter().zip(after)) {
            if vacant(after) && !vacant(before) {
                self.maps.end_tenancy(slot)?;
                any = true;
            }
        }
        if any { self.wake_heirs() } else { Ok(()) }
    }
}

/// What of the records the table is built from; the PID for the CPU that it is pinned to.
fn shares(records: &[MemberRecord]) -> impl PartialEq + use<> {
    let live = records.iter().map(|record| {
        let live = record.state == SlotState::Live as u8;
        live.then_some((record.weight, record.key, record.since, record.pid))
    });
    live.collect::<Vec<_>>()
}

/// Who accepts from which slot.
fn workers(records: &[MemberRecord]) -> impl PartialEq + use<> {
    let worker = |record: &MemberRecord| {
        (record.state != SlotState::Vacant as u8).then_some((record.pid, record.start))
    };
    records.iter().map(worker).collect::<Vec<_>>()
}

impl<'a> Change<'a> {
    fn of(steering: &'a Steering) -> Result<Self> {
        let (group, agent) = (steering.group()?, steering.agent_state()?);
        let before = Image { group, agent, records: steering.maps.members.read()? };
        let plan = Plan { after: before.clone(), before, attaches: false };
        Ok(Self { steering, plan })
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        self.steering.name()
    }

    /// The group's record.
    pub fn group(&self) -> &GroupSpec {
        &self.plan.after.group
    }

    /// What the agent tells.
    pub fn agent(&mut self) -> &mut AgentState {
        &mut self.plan.after.agent
    }

    /// The slots that are taken.
    pub fn members(&self) -> Vec<Member> {
        let mut members = self.all_slots();
        members.retain(|member| member.state != SlotState::Vacant);
        members
    }

    fn all_slots(&self) -> Vec<Member> {
        let records = (0..).zip(self.plan.after.records.iter().copied());
        records.filter(|(_, record)| record.cookie != 0).map(Member::from).collect()
    }

    /// Everything that is known of the group now.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let Image { group, agent, .. } = &self.plan.after;
        self.steering.snapshot_of(group, agent, &self.all_slots())
    }

    /// The group as it is, to be looked at.
    pub fn steering(&self) -> &Steering {
        self.steering
    }

    /// Switches the policy and its options.
    pub fn set_policy(&mut self, policy: Policy, options: PolicyOptions) {
        let group = &mut self.plan.after.group;
        (group.policy, group.options) = (policy, options);
        self.plan.attaches = true;
    }

    /// Changes a member's weight.
    pub fn set_weight(&mut self, slot: u32, weight: Weight) {
        self.record(slot).weight = weight.get();
    }

    /// Notes the process that accepts from a slot.
    pub fn set_worker(&mut self, slot: u32, worker: Identity) {
        note_worker(self.record(slot), worker);
    }

    /// Notes the process that accepts from a slot in place of a worker that has left its socket. It is
    /// new: live, whatever the other's state was, and its slow start begins.
    pub fn succeed(&mut self, slot: u32, worker: Identity) {
        self.set_worker(slot, worker);
        let record = self.record(slot);
        (record.state, record.since) = (SlotState::Live as u8, publishing::since_boot());
    }

    /// Moves a slot through its life. A member that goes live the first time, and beside others in the
    /// table, is new: see [`Steering::grow`].
    pub fn set_state(&mut self, slot: u32, state: SlotState) {
        let joins =
            self.plan.after.records.iter().any(|record| record.state == SlotState::Live as u8);
        let now = if joins { publishing::since_boot() } else { 0 };
        move_to(self.record(slot), state, now);
    }

    /// Lets the members of two slots have each other's clients.
    pub fn swap_keys(&mut self, one: u32, other: u32) {
        let key = self.record(one).key;
        let other = std::mem::replace(&mut self.record(other).key, key);
        self.record(one).key = other;
    }

    fn record(&mut self, slot: u32) -> &mut MemberRecord {
        &mut self.plan.after.records[slot as usize]
    }
}

/// Notes the process that accepts from a slot.
pub(super) fn note_worker(record: &mut MemberRecord, worker: Identity) {
    (record.pid, record.start) = (worker.pid, worker.start);
}

/// Moves a slot through its life; one that goes live the first time does so at `now`.
pub(super) fn move_to(record: &mut MemberRecord, state: SlotState, now: u64) {
    if record.state == SlotState::Starting as u8 && state == SlotState::Live {
        record.since = now;
    }
    record.state = state as u8;
}
