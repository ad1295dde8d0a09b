//! `balancer policy`: switches the policy of a running group.

use anyhow::Result;

use crate::{
    cli::PolicyArgs,
    commands::{open_group, vanished},
    drain, privilege,
    render::say,
    steering::Store,
};

/// Switches, and says from what to what.
pub fn policy(args: &PolicyArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let _lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    let before = steering.group()?.policy;
    drain::check_policy(steering.name(), args.policy, &steering.snapshot()?.members)?;
    steering.set_policy(args.policy)?;
    say(format_args!("{}: {} → {}", steering.name(), before.name(), args.policy.name()))
}
