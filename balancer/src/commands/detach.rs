//! `balancer detach`: gives a group, or all groups of a service, back to the kernel's hash.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use balancer_steering::{
    address::ServedAddress,
    group::GroupSpec,
    privilege,
    steering::{Steering, Store},
};

use crate::{cli::DetachArgs, commands::open_scope, render::say, rules};

/// Detaches the program and removes the pins; the workers go on.
pub fn detach(args: &DetachArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let groups = match args.address {
        Some(address) => vec![open_at(store, address)?],
        None => open_scope(store, &args.group)?.groups,
    };
    groups.into_iter().try_for_each(|steering| detach_one(steering, store))
}

fn detach_one(steering: Steering, store: &Store) -> Result<()> {
    let name = steering.name().to_owned();
    let lock = steering.lock_or_gone()?;
    let group = steering.group()?;
    let drained = rules::drained(&steering.snapshot()?.members);
    steering.detach(store)?;
    drop(lock);
    for who in drained {
        tracing::warn!("{who} was drained; the kernel's hash gives it new connections again");
    }
    say(format_args!("{name}: given back to the kernel's hash; its workers go on{}", more(&group)))
}

fn more(group: &GroupSpec) -> String {
    let mut more = String::new();
    let pid = group.agent.pid;
    if group.adopted && group.agent.is_alive() {
        more.push_str(&format!("; balancer PID {pid}, which watched it, ends"));
    }
    if group.replaced {
        more.push_str(
            "\nthe program that `attach --replace` removed cannot be put back by balancer, but by its owner",
        );
    }
    more
}

/// Opens the only group at an address, in whichever network namespace.
fn open_at(store: &Store, address: ServedAddress) -> Result<Steering> {
    at(store, address)?.with_context(|| {
        format!("no group at {address} is steered; `balancer groups` shows which are")
    })
}

/// The only group at an address, in whichever network namespace; `None` if none is steered there.
pub(super) fn at(store: &Store, address: ServedAddress) -> Result<Option<Steering>> {
    let mut there = Vec::new();
    for name in store.names()? {
        let opened = Steering::open(store, &name).and_then(|s| Ok((s.group()?.identity, s)));
        match opened {
            Ok((identity, steering)) if address.matches(identity.address) => {
                there.push((identity, steering));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{error:#}; it is not known whether it is at {address}"),
        }
    }
    if there.len() > 1 {
        let names: Vec<String> =
            there.iter().map(|(identity, s)| format!("{} ({identity})", s.name())).collect();
        let mut services = BTreeSet::new();
        for (_, steering) in &there {
            services
                .extend(steering.group()?.service.map(|service| format!(" --service {service}")));
        }
        let or = if services.is_empty() { "" } else { ", or all of a service with" };
        bail!(
            "there are several groups at {address}; name one with --group: {}{or}{}",
            names.join(", "),
            services.into_iter().collect::<Vec<_>>().join(" or")
        );
    }
    Ok(there.pop().map(|(_, steering)| steering))
}
