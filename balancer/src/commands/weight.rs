//! `balancer weight`: changes weights in a running group.

use anyhow::{Result, bail};

use crate::{
    cli::WeightArgs,
    commands::{open_group, vanished},
    policy::Shares,
    privilege,
    render::say,
    steering::{Member, Store},
};

/// Changes all weights in one step, or none.
pub fn weight(args: &WeightArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let _lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    let members = steering.members()?;
    let mut changes = Vec::new();
    for change in &args.weights {
        let of_process = |member: &&Member| member.worker.pid == change.pid;
        // A server that was attached may have several.
        let slots: Vec<u32> = members.iter().filter(of_process).map(|m| m.slot).collect();
        if slots.is_empty() {
            bail!(
                "PID {} is no worker of the group {}; its workers are {}",
                change.pid,
                steering.name(),
                pids(&members)
            );
        }
        changes.push((slots, change));
    }
    for (slots, change) in changes {
        for slot in slots {
            steering.set_weight(slot, change.weight)?;
        }
        say(format_args!(
            "{}: weight of PID {} is {}",
            steering.name(),
            change.pid,
            change.weight
        ))?;
    }
    steering.publish()?;
    let policy = steering.group()?.policy;
    if policy.shares() == Shares::Equal {
        tracing::warn!(
            "the policy {} ignores weights; try: balancer policy weighted",
            policy.name()
        );
    }
    Ok(())
}

fn pids(members: &[Member]) -> String {
    members.iter().map(|member| member.worker.pid.to_string()).collect::<Vec<_>>().join(", ")
}
