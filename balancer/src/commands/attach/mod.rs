//! `balancer attach`: steers servers that are already running, and watches for new ones until told
//! to stop. Of a service it steers all groups, or none.
//!
//! | what | module |
//! | --- | --- |
//! | how groups begin to be steered: all of them, or none | `begin` |
//! | what was there before, and what is said when all are steered | `settle` |
//! | the agent of them all, until the end | `stay` |

mod begin;
mod settle;
mod stay;

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use balancer_steering::{
    address::AttachAddress,
    discovery::{self, FoundGroup, Netns},
    group::Protocol,
    kernel, privilege,
    steering::{LOG_DEBUG, Store},
};

use crate::{
    agent::Signals,
    cli::{AttachArgs, LogLevel},
    commands::claim,
    error::{UsageError, with_remedy},
    render,
    target::{Target, Unclear, of_service, remedy},
};

use self::begin::Plan;

/// Attaches; then, unless once is enough, runs until SIGINT, SIGTERM or SIGHUP.
pub fn attach(args: &AttachArgs, bpffs: &Path, log_level: LogLevel) -> Result<()> {
    if let Some(name) = &args.name {
        claim::check_name(name)?;
    }
    if args.addresses.len() > 1 && args.service.is_none() {
        return Err(UsageError::new(
            "several addresses are steered together as a service, which has a name; add --service NAME, \
             such as --service web",
        )
        .into());
    }
    kernel::require(kernel::release())?;
    privilege::require()?;
    let found = find_all(args)?;
    let log_level = if log_level == LogLevel::Debug { LOG_DEBUG } else { 0 };
    let store = Store::prepare(bpffs).map_err(with_remedy)?;
    let plan = Plan { args, store: &store, log_level };
    plan.check(&found)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let _inside = runtime.enter();
    // Before anything is attached that the end by a signal would leave behind.
    let listen = |_: &FoundGroup| Signals::listen();
    let signals = if args.once { None } else { Some(found.iter().map(listen).collect()) };
    let signals: Option<Vec<Signals>> = signals.transpose()?;
    let begun = plan.begin(&found)?;
    match signals {
        Some(signals) => stay::stay(&runtime, begun, signals, args, &store),
        None => match settle::settle_all(&begun, args.service) {
            Err(error) => {
                begin::give_back(begun, &store);
                Err(error)
            }
            Ok(_) if args.quiet => Ok(()),
            Ok(line) => render::say(format_args!("{line}")),
        },
    }
}

/// The network namespace that is looked into.
fn netns(args: &AttachArgs) -> Result<Netns> {
    Ok(args.netns.as_ref().map_or_else(Netns::own, Netns::open)?)
}

/// The groups that are meant: one, or those of a service.
fn find_all(args: &AttachArgs) -> Result<Vec<FoundGroup>> {
    let netns = netns(args)?;
    let udp = args.udp.then_some(Protocol::Udp);
    let target = |named: &AttachAddress| Target {
        address: named.address,
        protocol: named.protocol.or(udp),
        netns: args.netns.as_ref(),
    };
    let targets: Vec<Target<'_>> = args.addresses.iter().map(target).collect();
    match (args.service, targets.as_slice()) {
        (None, [only]) => Ok(vec![find(&netns, *only)?]),
        _ => {
            let groups = discovery::groups_in(&netns)?;
            let meant = of_service(&targets, &groups).map_err(|unclear| explain(unclear, &netns));
            Ok(meant?.into_iter().cloned().collect())
        }
    }
}

/// The group that is meant.
pub(super) fn find(netns: &Netns, target: Target<'_>) -> Result<FoundGroup> {
    let groups = discovery::groups_in(netns)?;
    Ok(target.among(&groups).map_err(|unclear| explain(unclear, netns))?.clone())
}

/// Why no group is meant, with what would help.
fn explain(unclear: Unclear<'_>, netns: &Netns) -> anyhow::Error {
    let Unclear::None(target) = unclear else { return UsageError::new(unclear).into() };
    match discovery::unrelated_sockets(netns, target.address.port()) {
        Ok(there) => anyhow!("{unclear}; {}", remedy(target, &there)),
        Err(error) => error.into(),
    }
}
