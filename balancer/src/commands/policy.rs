//! `balancer policy`: switches the policy of a running group.

use anyhow::Result;

use crate::{
    cli::PolicyArgs,
    commands::{open_group, vanished, warn_if_unpinned},
    drain, privilege,
    render::say,
    snapshot::policy_line,
    steering::Store,
    tracking, tuning,
};

/// Switches, and says from what to what.
pub fn policy(args: &PolicyArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let _lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    let group = steering.group()?;
    let tuning = args.tuning.tuning(group.tuning);
    tuning::check(args.policy, tuning, group.identity.protocol)?;
    let members = steering.snapshot()?.members;
    let reloading = group.agent.is_alive() && steering.agent_state()?.is_reloading();
    drain::check_policy(steering.name(), args.policy, &members, reloading)?;
    steering.set_policy(args.policy, tuning)?;
    tracking::catch_up(&steering)?;
    warn_if_unpinned(&steering)?;
    let before = policy_line(group.policy, group.tuning.into());
    let now = policy_line(args.policy, tuning.into());
    say(format_args!("{}: {before} → {now}", steering.name()))
}
