//! `balancer policy`: switches the policy of a running group.

use anyhow::Result;
use balancer_steering::{options, privilege, steering::Store};

use crate::{
    agent::warn_if_unpinned,
    cli::PolicyArgs,
    commands::open_group,
    render::{policy::policy_line, say},
    rules,
};

/// Switches, and says from what to what.
pub fn policy(args: &PolicyArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    if steering.supersede_experiment()? {
        tracing::warn!("{}: the comparison that was running on it ends", steering.name());
    }
    let (before, now) = steering.change(|change| {
        let group = *change.group();
        let options = args.options.options(group.options);
        options::check(args.policy, options, group.identity.protocol, group.counted)?;
        let members = change.snapshot()?.members;
        let reloading = group.agent.is_alive() && change.agent().is_reloading();
        rules::check_policy(change.name(), args.policy, &members, reloading)?;
        change.set_policy(args.policy, options);
        let line = policy_line;
        anyhow::Ok((line(group.policy, group.options.into()), line(args.policy, options.into())))
    })?;
    if let Some(shortcoming) = options::shortcoming(args.policy) {
        tracing::warn!("{shortcoming}");
    }
    warn_if_unpinned(&steering)?;
    say(format_args!("{}: {before} → {now}", steering.name()))
}
