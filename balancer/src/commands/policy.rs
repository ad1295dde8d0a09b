//! `balancer policy`: switches the policy of a running group, or of all groups of a service.

use anyhow::Result;
use balancer_steering::{privilege, steering::Store};

use crate::{
    cli::PolicyArgs,
    commands::{open_scope, say_line},
    operations,
};

/// Switches, and says from what to what.
pub fn policy(args: &PolicyArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut scope = open_scope(store, &args.group)?;
    let options = |before| args.options.options(before);
    operations::set_policy(&mut scope, args.policy, options, say_line)
}
