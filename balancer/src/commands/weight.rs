//! `balancer weight`: changes weights in a running group.

use anyhow::{Result, bail};
use balancer_steering::{
    privilege,
    steering::{Member, Store},
    weight::WorkerWeight,
};

use crate::{
    cli::WeightArgs,
    commands::{open_group, say_lines, settle},
};

/// Changes all weights in one step, or none.
pub fn weight(args: &WeightArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let named: Vec<u32> = args.weights.iter().map(|weight| weight.pid).collect();
    let (policy, lines) = steering.change(|change| {
        let lines = settle(change, &named)?;
        let members = change.members();
        for &WorkerWeight { pid, weight } in &args.weights {
            // A server that was attached may have several.
            let own: Vec<u32> =
                members.iter().filter(|m| m.worker.pid == pid).map(|m| m.slot).collect();
            if own.is_empty() {
                let (name, workers) = (change.name(), pids(&members));
                bail!("PID {pid} is not a worker of the group {name}; its workers are {workers}");
            }
            own.iter().for_each(|&slot| change.set_weight(slot, weight));
        }
        Ok((change.group().policy, lines))
    })?;
    let weights = args.weights.iter();
    let lines = lines.into_iter().chain(
        weights.map(|WorkerWeight { pid, weight }| format!("weight of PID {pid} is {weight}")),
    );
    say_lines(&steering, lines)?;
    if !policy.weighs() {
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
