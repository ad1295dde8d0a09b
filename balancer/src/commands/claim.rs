//! What a new group must not collide with: one that is steered already, or that has its name.

use anyhow::{Result, anyhow, bail};
use balancer_steering::{
    group::{self, GroupIdentity, GroupSpec},
    service::ServiceName,
    snapshot::MemberState,
    steering::{Steering, Store},
};

use crate::error::UsageError;

/// A name is a directory on bpffs, which takes no dots.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return Err(UsageError::new(format_args!(
            "`{name}` cannot be a group's name; use 1 to 64 of a-z, A-Z, 0-9, - and _"
        ))
        .into());
    }
    Ok(())
}

/// Refuses a group that is steered; what an earlier command left of it is removed.
pub fn refuse_steered(store: &Store, identity: &GroupIdentity) -> Result<()> {
    for name in store.names()? {
        let Ok(steering) = Steering::open(store, &name) else { continue };
        let Ok(group) = steering.group() else { continue };
        if group.identity != *identity {
            continue;
        }
        let living = living_workers(&steering)?;
        if living.is_empty() && !group.agent.is_alive() {
            tracing::info!("removing what is left of the group {name}");
            store.remove(&name)?;
            continue;
        }
        return Err(steered_already(&name, &group, &living));
    }
    Ok(())
}

/// Refuses the name of a service that has groups at other addresses than these, whoever steers them.
pub fn refuse_service(
    store: &Store,
    service: ServiceName,
    identities: &[GroupIdentity],
) -> Result<()> {
    for name in store.names()? {
        let Ok(group) = Steering::open(store, &name).and_then(|steering| steering.group()) else {
            continue;
        };
        if group.service == Some(service) && !identities.contains(&group.identity) {
            bail!(
                "the service {service} has the group {name} too, at {}, which is not named here; name all \
                 of its addresses, give it back with `balancer detach --group {name}`, or choose another \
                 name for the service",
                group.identity
            );
        }
    }
    Ok(())
}

/// The name of a new group: the one that was asked for, or the first of its default names that no
/// other group has. Refuses one that another group has.
pub fn name(store: &Store, asked: Option<&str>, identity: &GroupIdentity) -> Result<String> {
    let taken = store.names()?;
    let names =
        asked.map_or_else(|| group::default_names(identity).into(), |name| vec![name.into()]);
    if let Some(free) = names.iter().find(|name| !taken.contains(name)) {
        return Ok(free.clone());
    }
    let name = names.last().map_or("", String::as_str);
    let owner = match Steering::open(store, name).and_then(|steering| steering.group()) {
        Ok(group) => format!("which steers {}", group.identity),
        Err(error) => format!("which cannot be read ({error:#})"),
    };
    bail!("there already is a group {name}, {owner}; choose another name with --name")
}

fn living_workers(steering: &Steering) -> Result<Vec<String>> {
    let members = steering.snapshot()?.members;
    let living = members.into_iter().filter(|member| member.state != MemberState::Dead);
    Ok(living.map(|member| member.pid.to_string()).collect())
}

fn steered_already(name: &str, group: &GroupSpec, living: &[String]) -> anyhow::Error {
    let address = group.identity.address;
    let workers = living.join(" ");
    let policy = group.policy.name();
    let pid = group.agent.pid;
    let detach = format!("balancer detach --group {name}");
    let takeover = "go on with it by the same command with --takeover";
    let (by, remedy) = match (group.agent.is_alive(), group.adopted) {
        (true, false) => {
            (format!("run by balancer PID {pid}"), format!("stop it with `kill {pid}`"))
        }
        (true, true) => {
            (format!("attached by balancer PID {pid}"), format!("give it back with `{detach}`"))
        }
        (false, true) => (
            match pid {
                0 => "attached with --once".to_owned(),
                _ => format!("left by balancer PID {pid}, which is gone"),
            },
            format!("{takeover}, give it back with `{detach}`"),
        ),
        (false, false) => (
            format!("left by balancer PID {pid}, which is gone"),
            format!("{takeover}, end it with `{detach} && kill {workers}`"),
        ),
    };
    anyhow!(
        "{address} is already steered: group {name}, policy {policy}, workers {workers}, {by}; \
         {remedy}, or choose another address"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_bpffs_would_refuse_is_refused_first() {
        for name in ["a.b", "../x", ""] {
            let error = check_name(name).unwrap_err();
            assert_eq!(crate::error::exit_code(&error), 2);
            assert!(error.to_string().contains(&format!("`{name}`")));
        }
        assert!(check_name("web_1-a").is_ok());
    }
}
