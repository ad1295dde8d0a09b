//! `balancer policy`: switches the policy of a running group.

use anyhow::Result;
use balancer_steering::{privilege, steering::Store};

use crate::{
    cli::PolicyArgs,
    commands::{open_group, say_line},
    operations,
};

/// Switches, and says from what to what.
pub fn policy(args: &PolicyArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    let options = |before| args.options.options(before);
    operations::set_policy(&mut steering, args.policy, options, say_line)
}
