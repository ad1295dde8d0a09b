//! What was there before a group was steered, and what is said once it is.

use std::{
    collections::{BTreeSet, HashMap},
    thread,
};

use anyhow::Result;
use balancer_steering::{
    discovery::{self, Cookies},
    existing, options,
    service::ServiceName,
    steering::{Member, Steering},
};

use super::begin::Begun;
use crate::agent::warn_if_unpinned;

/// Counts what was there before, and warns of what will not be as expected; what to say when all are steered.
///
/// # Errors
/// Returns an error if the state of a group cannot be read.
pub fn settle_all(begun: &[Begun], service: Option<ServiceName>) -> Result<String> {
    begun.iter().try_for_each(|one| settle_in(one.steering(), &one.waited))?;
    line(begun, service)
}

fn settle_in(steering: &Steering, waited: &Cookies) -> Result<()> {
    match existing::count(steering, waited) {
        Ok(found) => found.shortcomings().for_each(|line| tracing::warn!("{line}")),
        Err(error) => {
            tracing::warn!("not all connections that were already open are counted: {error:#}");
        }
    }
    if !waited.is_empty() {
        unattended(steering)?.iter().for_each(|line| tracing::warn!("{line}"));
    }
    if let Some(shortcoming) = options::shortcoming(steering.group()?.policy) {
        tracing::warn!("{shortcoming}");
    }
    warn_if_unpinned(steering)
}

fn line(begun: &[Begun], service: Option<ServiceName>) -> Result<String> {
    let (mut names, mut workers, mut last) = (Vec::new(), BTreeSet::new(), None);
    for one in begun {
        let members = one.steering().members()?;
        workers.extend(members.iter().map(|member| member.worker.pid));
        names.push(one.steering().name());
        last = Some((one.steering().group()?, members.len()));
    }
    let Some((group, members)) = last else { return Ok(String::new()) };
    let (names, policy) = (names.join(" "), group.policy.name());
    Ok(match service {
        None => {
            format!(
                "steering {}, policy {policy}, {members} members, group {names}",
                group.identity
            )
        }
        Some(service) => {
            let workers = workers.len();
            format!(
                "steering service {service}, policy {policy}, {workers} workers, groups {names}"
            )
        }
    })
}

/// Members at whose sockets connections wait of which none is accepted for a while, in words.
fn unattended(steering: &Steering) -> Result<Vec<String>> {
    let (group, members) = (steering.group()?.identity, steering.members()?);
    let queues = || discovery::queues(&group, members.iter().map(|member| member.worker));
    let before = queues()?;
    thread::sleep(options::STALL);
    let now = queues()?;
    let waiting = |all: &HashMap<u64, u32>, cookie| all.get(&cookie).copied().unwrap_or_default();
    let line = |member: &Member| {
        let (then, now) = (waiting(&before, member.cookie), waiting(&now, member.cookie));
        (then > 0 && now >= then).then(|| {
            format!(
                "{now} connections wait at the socket of PID {} (slot {}), and none was accepted within \
                 {} ms; check that its process accepts",
                member.worker.pid,
                member.slot,
                options::STALL.as_millis()
            )
        })
    };
    Ok(members.iter().filter_map(line).collect())
}
