//! `balancer status`: what is known of a group, or of a service.

use std::collections::HashMap;

use anyhow::Result;
use balancer_steering::{
    adoption::settling,
    discovery,
    group::Protocol,
    service_snapshot::ServiceSnapshot,
    snapshot::Snapshot,
    steering::{Steering, Store},
};

use crate::{
    cli::StatusArgs,
    commands::open_scope,
    render::{self, say, say_json},
};

/// Prints a group, or all groups of a service, as tables or as one JSON object.
pub fn status(args: &StatusArgs, store: &Store) -> Result<()> {
    let scope = open_scope(store, &args.group)?;
    let mut groups = scope.groups.iter().map(settling::snapshot).collect::<Result<Vec<_>, _>>()?;
    if let Some(service) = scope.service {
        let mut waiting = HashMap::new();
        for (steering, group) in scope.groups.iter().zip(&groups) {
            add_waiting(steering, group, &mut waiting)?;
        }
        let service = ServiceSnapshot::of(service, groups, &waiting);
        if args.json {
            return say_json(&service);
        }
        return say(format_args!("{}", render::service::status(&service)));
    }
    let Some(snapshot) = groups.pop() else { return Ok(()) };
    if args.json {
        return say_json(&snapshot);
    }
    say(format_args!("{}", render::table::status(&snapshot)))
}

/// Adds how many connections wait at the sockets of each process.
fn add_waiting(
    steering: &Steering,
    snapshot: &Snapshot,
    waiting: &mut HashMap<u32, u64>,
) -> Result<()> {
    let (group, members) = (steering.group()?, steering.members()?);
    if group.identity.protocol == Protocol::Udp {
        return Ok(());
    }
    let queues = discovery::queues(&group.identity, members.iter().map(|member| member.worker))?;
    for member in members {
        let queue = queues.get(&member.cookie).copied().unwrap_or_default();
        for shown in snapshot.members.iter().filter(|shown| shown.slot == member.slot) {
            *waiting.entry(shown.pid).or_default() += u64::from(queue);
        }
    }
    Ok(())
}
