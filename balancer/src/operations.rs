//! What is changed in a running group, or in all groups of a service, by the commands and by `top`: policy,
//! weights, drain and resume.
//!
//! Each operation refuses or takes effect, in all groups or in none. It hands lines about what was done to its
//! caller, in the order in which they are to be read; warnings are traced.

use anyhow::{Context as _, Result};
use balancer_common::record::SlotState;
use balancer_steering::{
    adoption::settling::settle,
    group::GroupSpec,
    options::{self, PolicyOptions},
    policy::Policy,
    service::ServiceName,
    snapshot::MemberInfo,
    steering::{Change, Steering, Store, change_all},
    weight::WorkerWeight,
    who::Who,
};

use crate::{
    agent::warn_if_unpinned,
    render::policy::{abandoned_line, policy_line},
    rules,
    service::{self, Known},
};

/// What a command means: a group, or all groups of a service.
pub struct Scope {
    /// The service, if that is meant.
    pub service: Option<ServiceName>,
    /// The groups, by name.
    pub groups: Vec<Steering>,
}

impl Scope {
    /// What is typed to mean it again.
    pub fn typed(&self) -> String {
        match (self.service, self.groups.first()) {
            (Some(service), _) => format!("--service {service}"),
            (None, Some(group)) => format!("--group {}", group.name()),
            (None, None) => String::new(),
        }
    }

    fn service_name(&self) -> String {
        self.service.map(|service| service.to_string()).unwrap_or_default()
    }
}

/// Opens the group of this name, the groups of this service, or all there are if they are one group or of one
/// service. If an experiment on one was abandoned, what was in force before is put back.
///
/// # Errors
/// Returns an error if there is none such, or there are several and none is named.
pub fn open(store: &Store, group: Option<&str>, service: Option<ServiceName>) -> Result<Scope> {
    // By its name a group is found without a look at the others.
    let of = |name: String| match group {
        Some(_) => Known { name, service: None },
        None => known(store, name),
    };
    let known: Vec<Known> = store.names()?.into_iter().map(of).collect();
    let meant = service::meant(&known, group, service)?;
    let of = meant.first().and_then(|known| known.service);
    let groups =
        meant.iter().map(|known| open_one(store, &known.name)).collect::<Result<Vec<_>>>()?;
    let service = service.or(of.filter(|_| groups.len() > 1));
    Ok(Scope { service, groups })
}

/// A group that cannot be read is of no service; whoever means it is told why.
fn known(store: &Store, name: String) -> Known {
    let group = Steering::open(store, &name).and_then(|steering| steering.group());
    Known { service: group.ok().and_then(|group| group.service), name }
}

fn open_one(store: &Store, name: &str) -> Result<Steering> {
    let mut steering = Steering::open(store, name)?;
    match steering.restore() {
        Ok(None) => {}
        Ok(Some(abandoned)) => tracing::warn!("{}", abandoned_line(steering.name(), &abandoned)),
        Err(error) => tracing::warn!(
            "{}: an experiment was abandoned, and what was in force before cannot be put back: {error:#}",
            steering.name()
        ),
    }
    Ok(steering)
}

/// Switches the policy, with options made of those in force, and says from what to what.
///
/// # Errors
/// Returns an error if the policy is not possible for one of the groups, or the kernel refuses.
pub fn set_policy(
    scope: &mut Scope,
    policy: Policy,
    options: impl Fn(PolicyOptions) -> PolicyOptions,
    say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    for steering in &scope.groups {
        if steering.supersede_experiment()? {
            tracing::warn!("{}: the comparison that was running on it ends", steering.name());
        }
    }
    let several = scope.groups.len() > 1;
    let lines = change_all(&mut scope.groups, |changes| {
        let switch = |change: &mut Change<'_>| {
            let group = *change.group();
            let options = options(group.options);
            let reloading = change.agent().is_reloading();
            let members = change.snapshot()?.members;
            let name = change.name();
            let check = check_policy(name, &group, policy, options, &members, reloading);
            of_group(several, name, check)?;
            change.set_policy(policy, options);
            let line = policy_line;
            let before = line(group.policy, group.options.into());
            Ok(format!("{}: {before} → {}", change.name(), line(policy, options.into())))
        };
        changes.iter_mut().map(switch).collect::<Result<Vec<_>>>()
    })?;
    if let Some(shortcoming) = options::shortcoming(policy) {
        tracing::warn!("{shortcoming}");
    }
    scope.groups.iter().try_for_each(warn_if_unpinned)?;
    lines.into_iter().try_for_each(say)
}

/// Whether a group can be switched to a policy as it is. `reloading` is what its agent told last.
///
/// # Errors
/// Returns an error if the machine, the group's protocol or the state of its members does not allow it.
pub fn check_policy(
    name: &str,
    group: &GroupSpec,
    policy: Policy,
    options: PolicyOptions,
    members: &[MemberInfo],
    reloading: bool,
) -> Result<()> {
    options::check(policy, options, group.identity.protocol, group.counted)?;
    let reloading = group.agent.is_alive() && reloading;
    Ok(rules::check_policy(name, policy, members, reloading)?)
}

/// Changes all weights, or none.
///
/// # Errors
/// Returns an error if one of them is in no group.
pub fn set_weights(
    scope: &mut Scope,
    weights: &[WorkerWeight],
    say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let named: Vec<Who> = weights.iter().map(|weight| weight.who).collect();
    let mut policies = Vec::new();
    let set = |change: &mut Change<'_>, _: &[MemberInfo], whom: &[Who]| {
        policies.push(change.group().policy);
        let members: Vec<_> = change.members().iter().map(|m| (m.slot, m.worker.pid)).collect();
        let mut lines = Vec::new();
        for &WorkerWeight { who, weight } in weights.iter().filter(|w| whom.contains(&w.who)) {
            let own: Vec<u32> =
                members.iter().filter(|(slot, pid)| who.is(*slot, *pid)).map(|m| m.0).collect();
            if own.is_empty() {
                let of = format!("group {}", change.name());
                return Err(rules::unknown(&of, members.into_iter(), who).into());
            }
            own.iter().for_each(|&slot| change.set_weight(slot, weight));
            lines.push(format!("weight of {who} is {weight}"));
        }
        Ok(lines)
    };
    change_workers(scope, &named, set, say)?;
    if let Some(policy) = policies.into_iter().find(|policy| !policy.weighs()) {
        tracing::warn!(
            "the policy {} ignores weights; try: balancer policy weighted",
            policy.name()
        );
    }
    Ok(())
}

/// Takes workers out of the table.
///
/// # Errors
/// Returns an error if one of them cannot be drained, or no other worker would be left.
pub fn drain(scope: &mut Scope, whom: &[Who], say: impl FnMut(String) -> Result<()>) -> Result<()> {
    let drain = |change: &mut Change<'_>, members: &[MemberInfo], whom: &[Who]| {
        let slots = rules::to_drain(change.name(), change.group().policy, members, whom)?;
        Ok(set_state(change, &slots, SlotState::Draining, whom))
    };
    change_workers(scope, whom, drain, say)
}

/// Puts workers back into the table.
///
/// # Errors
/// Returns an error if one of them cannot be put back.
pub fn resume(
    scope: &mut Scope,
    whom: &[Who],
    say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let resume = |change: &mut Change<'_>, members: &[MemberInfo], whom: &[Who]| {
        let slots = rules::to_resume(change.name(), members, whom)?;
        Ok(set_state(change, &slots, SlotState::Live, whom))
    };
    change_workers(scope, whom, resume, say)
}

fn set_state(
    change: &mut Change<'_>,
    slots: &[u32],
    state: SlotState,
    whom: &[Who],
) -> Vec<String> {
    slots.iter().for_each(|&slot| change.set_state(slot, state));
    let word = if state == SlotState::Live { "live" } else { "draining" };
    whom.iter().map(|who| format!("{who} is {word}")).collect()
}

/// Changes workers in each group that they are in. `what` refuses, or says what it does.
fn change_workers(
    scope: &mut Scope,
    whom: &[Who],
    mut what: impl FnMut(&mut Change<'_>, &[MemberInfo], &[Who]) -> Result<Vec<String>>,
    say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let (pids, service) = (pids(whom), scope.service_name());
    let several = scope.groups.len() > 1;
    let lines = change_all(&mut scope.groups, |changes| {
        let mut lines = Vec::new();
        let mut members = Vec::new();
        for change in &mut *changes {
            let settled = settle(change, &pids)?;
            lines.push(settled);
            members.push(change.snapshot()?.members);
        }
        let each = service::in_each(&service, &members, whom)?;
        for (((change, members), whom), lines) in
            changes.iter_mut().zip(&members).zip(&each).zip(&mut lines)
        {
            if !whom.is_empty() {
                let done = what(change, members, whom);
                lines.extend(of_group(several, change.name(), done)?);
            }
            let name = change.name();
            lines.iter_mut().for_each(|line| *line = format!("{name}: {line}"));
        }
        anyhow::Ok(lines)
    })?;
    lines.into_iter().flatten().try_for_each(say)
}

/// Says in which of several groups something was refused.
fn of_group<T>(several: bool, name: &str, result: Result<T>) -> Result<T> {
    if several { result.with_context(|| name.to_owned()) } else { result }
}

fn pids(whom: &[Who]) -> Vec<u32> {
    whom.iter().filter_map(|who| who.pid()).collect()
}
