//! Becoming the agent of a group whose agent is gone. Nothing that is pinned or attached is touched.

use anyhow::{Context as _, Result, anyhow, bail};

use super::vanished;
use crate::{
    drain,
    error::UsageError,
    group::{Group, GroupIdentity},
    policy::Policy,
    process::Identity,
    steering::{LOG_DEBUG, Steering, Store},
    tracking,
    tuning::Tuning,
};

/// Takes over the group at an address; the group as it was. `default` is what it is called unless
/// `name` says otherwise, `adopted` whether it is of servers that balancer did not start.
///
/// # Errors
/// Where there is none, it is of the other kind, or it has an agent.
pub fn take_over(
    store: &Store,
    identity: &GroupIdentity,
    name: Option<&str>,
    default: &str,
    adopted: bool,
) -> Result<(Steering, Group)> {
    let mut steering = find(store, identity, name, default)?;
    let _lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    let group = steering.group()?;
    refuse(steering.name(), &group, adopted)?;
    let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
    steering.set_agent(own)?;
    Ok((steering, Group { agent: own, ..group }))
}

fn find(
    store: &Store,
    identity: &GroupIdentity,
    name: Option<&str>,
    default: &str,
) -> Result<Steering> {
    let wanted = name.unwrap_or(default);
    for taken in store.names()? {
        let opened = Steering::open(store, &taken).and_then(|s| Ok((s.group()?.identity, s)));
        match opened {
            Ok((there, steering)) if there == *identity && name.is_none_or(|n| n == taken) => {
                return Ok(steering);
            }
            Err(error) if taken == wanted => {
                return Err(error.context(format!("the group {taken} cannot be taken over")));
            }
            _ => {}
        }
    }
    let called = name.map(|name| format!(" {name}")).unwrap_or_default();
    Err(anyhow!(
        "no group{called} on {identity} is steered, so there is nothing to take over; run this \
         without --takeover"
    ))
}

fn refuse(name: &str, group: &Group, adopted: bool) -> Result<()> {
    let (address, pid) = (group.identity.address, group.agent.pid);
    match (group.adopted, adopted) {
        (true, false) => bail!(
            "the group {name} on {address} is of servers that balancer has not started; take it \
             over with `balancer attach {address} --takeover`"
        ),
        (false, true) => bail!(
            "the workers of the group {name} on {address} were started by balancer; take it over \
             with `balancer run --listen {address} --takeover`"
        ),
        _ => {}
    }
    if group.agent.is_alive() {
        bail!(
            "the group {name} on {address} has its agent, balancer PID {pid}, so there is nothing \
             to take over; `kill {pid}` stops it in order, `kill -9 {pid}` leaves what it steers to \
             --takeover"
        );
    }
    Ok(())
}

/// Switches the policy and its options, where one is given.
///
/// # Errors
/// Where it cannot be.
pub fn switch(steering: &mut Steering, policy: Option<Policy>, tuning: Tuning) -> Result<()> {
    let Some(policy) = policy else {
        if tuning != Tuning::default() {
            return Err(UsageError::new(
                "the options of a policy go with --policy where a group is taken over; give that \
                 too, or switch them later with `balancer policy`",
            )
            .into());
        }
        return Ok(());
    };
    let _lock = steering.lock()?.ok_or_else(|| vanished(steering))?;
    let group = steering.group()?;
    if (group.policy, group.tuning) == (policy, tuning) {
        return Ok(());
    }
    drain::check_policy(steering.name(), policy, &steering.snapshot()?.members, false)?;
    steering.set_policy(policy, tuning)?;
    tracking::catch_up(steering).map(|_| ())
}

/// The level at which programs log is theirs since they were loaded.
pub fn note_log_level(group: &Group, asked: u8) {
    if group.log_level < asked && asked >= LOG_DEBUG {
        tracing::warn!("choices are not shown: the group was not begun with --log-level debug");
    }
}
