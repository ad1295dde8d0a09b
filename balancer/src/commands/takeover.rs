//! Becoming the agent of a group whose agent is gone. Nothing that is pinned or attached is touched.

use anyhow::{Context as _, Result, anyhow, bail};

use balancer_steering::{
    group::{GroupIdentity, GroupSpec, Protocol},
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
    service::ServiceName,
    steering::{LOG_DEBUG, Steering, Store},
};

use crate::{error::UsageError, rules};

/// Whose servers the group is of that is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Those that balancer started.
    Ours,
    /// Those that were started by others, as a part of this service, if any.
    Others(Option<ServiceName>),
}

/// Takes over the group at an address; the group as it was. `default` is what it is called unless
/// `name` says otherwise.
///
/// # Errors
/// Returns an error if there is none, it is of the other kind, or it has an agent.
pub fn take_over(
    store: &Store,
    identity: &GroupIdentity,
    name: Option<&str>,
    default: &str,
    of: Of,
) -> Result<(Steering, GroupSpec)> {
    let mut steering = find(store, identity, name, default)?;
    let _lock = steering.lock_or_gone()?;
    let group = steering.group()?;
    refuse(steering.name(), &group, of)?;
    let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
    steering.set_agent(own)?;
    steering.renew()?;
    Ok((steering, GroupSpec { agent: own, ..group }))
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
                return Err(error)
                    .with_context(|| format!("the group {taken} cannot be taken over"));
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

/// Whether a group at this address is steered.
///
/// # Errors
/// Returns an error if it is not known which groups there are.
pub fn is_there(store: &Store, identity: &GroupIdentity) -> Result<bool> {
    let is_at = |name: &String| {
        let group = Steering::open(store, name).and_then(|steering| steering.group());
        group.is_ok_and(|group| group.identity == *identity)
    };
    Ok(store.names()?.iter().any(is_at))
}

fn refuse(name: &str, group: &GroupSpec, of: Of) -> Result<()> {
    let (address, pid) = (group.identity.address, group.agent.pid);
    let typed = group.identity.typed();
    let udp = if group.identity.protocol == Protocol::Udp { " --udp" } else { "" };
    match (group.adopted, of) {
        (true, Of::Ours) => bail!(
            "the servers of the group {name} on {address} were not started by balancer; take it \
             over with `balancer attach {typed} --takeover`"
        ),
        (false, Of::Others(_)) => bail!(
            "the workers of the group {name} on {address} were started by balancer; take it over \
             with `balancer run{udp} --listen {address} --takeover`"
        ),
        (true, Of::Others(service)) if service != group.service => match group.service {
            Some(service) => bail!(
                "the group {name} on {address} is of the service {service}; take all of it over, with the \
                 command that began it and --takeover"
            ),
            None => bail!(
                "the group {name} on {address} is of no service; take it over with `balancer attach {typed} \
                 --takeover`"
            ),
        },
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
/// Returns an error if it cannot be.
pub fn switch(
    steering: &mut Steering,
    policy: Option<Policy>,
    options: PolicyOptions,
) -> Result<()> {
    let Some(policy) = policy else {
        if options != PolicyOptions::default() {
            return Err(UsageError::new(
                "the options of a policy go with --policy where a group is taken over; give that \
                 too, or switch them later with `balancer policy`",
            )
            .into());
        }
        return Ok(());
    };
    steering.change(|change| {
        if (change.group().policy, change.group().options) != (policy, options) {
            rules::check_policy(change.name(), policy, &change.snapshot()?.members, false)?;
            change.set_policy(policy, options);
        }
        Ok(())
    })
}

/// The level at which programs log is theirs since they were loaded.
pub fn note_log_level(group: &GroupSpec, asked: u8) {
    if group.log_level < asked && asked >= LOG_DEBUG {
        tracing::warn!(
            "choices are not shown, because the group was not started with --log-level debug"
        );
    }
}
