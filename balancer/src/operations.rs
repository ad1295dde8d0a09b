//! What is changed in a running group, by the commands and by `top`: policy, weights, drain and resume.
//!
//! Each operation refuses or takes effect in one step. It hands lines about what was done to its caller, in
//! the order in which they are to be read; warnings are traced.

use anyhow::{Result, bail};
use balancer_common::record::SlotState;
use balancer_steering::{
    adoption::settling::settle,
    group::GroupSpec,
    options::{self, PolicyOptions},
    policy::Policy,
    snapshot::MemberInfo,
    steering::{Change, Steering, Store},
    weight::WorkerWeight,
    who::Who,
};

use crate::{
    agent::warn_if_unpinned,
    render::policy::{abandoned_line, policy_line},
    rules,
};

const MAKES_ONE: &str = "`balancer run` or `balancer attach` creates one";

/// Opens the group of this name, or the only one. If an experiment on it was abandoned, what was in force
/// before is put back.
///
/// # Errors
/// Returns an error if there is no such group, or there are several and none is named.
pub fn open(store: &Store, group: Option<&str>) -> Result<Steering> {
    let names = store.names()?;
    let name = match (group, names.as_slice()) {
        (Some(name), _) if names.iter().any(|other| other == name) => name,
        (Some(name), []) => {
            bail!("there is no group {name}, nor any other group; {MAKES_ONE}")
        }
        (Some(name), _) => bail!("there is no group {name}; the groups are {}", names.join(", ")),
        (None, [only]) => only,
        (None, []) => bail!("no group is steered; {MAKES_ONE}"),
        (None, _) => {
            bail!("there are several groups; name one with --group: {}", names.join(", "))
        }
    };
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
/// Returns an error if the policy is not possible for the group, or the kernel refuses.
pub fn set_policy(
    steering: &mut Steering,
    policy: Policy,
    options: impl FnOnce(PolicyOptions) -> PolicyOptions,
    mut say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    if steering.supersede_experiment()? {
        tracing::warn!("{}: the comparison that was running on it ends", steering.name());
    }
    let (before, now) = steering.change(|change| {
        let group = *change.group();
        let options = options(group.options);
        let reloading = change.agent().is_reloading();
        check_policy(
            change.name(),
            &group,
            policy,
            options,
            &change.snapshot()?.members,
            reloading,
        )?;
        change.set_policy(policy, options);
        let line = policy_line;
        anyhow::Ok((line(group.policy, group.options.into()), line(policy, options.into())))
    })?;
    if let Some(shortcoming) = options::shortcoming(policy) {
        tracing::warn!("{shortcoming}");
    }
    warn_if_unpinned(steering)?;
    say(format!("{}: {before} → {now}", steering.name()))
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
/// Returns an error if one of them is not in the group.
pub fn set_weights(
    steering: &mut Steering,
    weights: &[WorkerWeight],
    mut say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let named: Vec<Who> = weights.iter().map(|weight| weight.who).collect();
    let (policy, lines) = steering.change(|change| {
        let lines = settle(change, &pids(&named))?;
        let members: Vec<_> = change.members().iter().map(|m| (m.slot, m.worker.pid)).collect();
        for &WorkerWeight { who, weight } in weights {
            let own: Vec<u32> =
                members.iter().filter(|(slot, pid)| who.is(*slot, *pid)).map(|m| m.0).collect();
            if own.is_empty() {
                bail!(rules::unknown(change.name(), members.into_iter(), who));
            }
            own.iter().for_each(|&slot| change.set_weight(slot, weight));
        }
        Ok((change.group().policy, lines))
    })?;
    let changed = |&WorkerWeight { who, weight }| format!("weight of {who} is {weight}");
    let mut lines = lines.into_iter().chain(weights.iter().map(changed));
    lines.try_for_each(|line| say(format!("{}: {line}", steering.name())))?;
    if !policy.weighs() {
        tracing::warn!(
            "the policy {} ignores weights; try: balancer policy weighted",
            policy.name()
        );
    }
    Ok(())
}

fn pids(whom: &[Who]) -> Vec<u32> {
    whom.iter().filter_map(|who| who.pid()).collect()
}

/// Takes workers out of the table.
///
/// # Errors
/// Returns an error if one of them cannot be drained, or no other worker would be left.
pub fn drain(
    steering: &mut Steering,
    whom: &[Who],
    say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let slots = |change: &mut Change<'_>, members: &[MemberInfo]| {
        Ok(rules::to_drain(change.name(), change.group().policy, members, whom)?)
    };
    set_state(steering, whom, SlotState::Draining, slots, say)
}

/// Puts workers back into the table.
///
/// # Errors
/// Returns an error if one of them cannot be put back.
pub fn resume(
    steering: &mut Steering,
    whom: &[Who],
    say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let slots = |change: &mut Change<'_>, members: &[MemberInfo]| {
        Ok(rules::to_resume(change.name(), members, whom)?)
    };
    set_state(steering, whom, SlotState::Live, slots, say)
}

fn set_state(
    steering: &mut Steering,
    whom: &[Who],
    state: SlotState,
    slots: impl FnOnce(&mut Change<'_>, &[MemberInfo]) -> Result<Vec<u32>>,
    mut say: impl FnMut(String) -> Result<()>,
) -> Result<()> {
    let lines = steering.change(|change| {
        let lines = settle(change, &pids(whom))?;
        let members = change.snapshot()?.members;
        let slots = slots(change, &members)?;
        slots.iter().for_each(|&slot| change.set_state(slot, state));
        anyhow::Ok(lines)
    })?;
    let word = if state == SlotState::Live { "live" } else { "draining" };
    let changed = whom.iter().map(|who| format!("{who} is {word}"));
    let mut lines = lines.into_iter().chain(changed);
    lines.try_for_each(|line| say(format!("{}: {line}", steering.name())))
}
