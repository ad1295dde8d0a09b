//! `balancer weight`: changes weights in a running group, or in all groups of a service.

use anyhow::Result;
use balancer_steering::{privilege, steering::Store};

use crate::{
    cli::WeightArgs,
    commands::{open_scope, say_line},
    operations,
};

/// Changes all weights in one step, or none.
pub fn weight(args: &WeightArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut scope = open_scope(store, &args.group)?;
    operations::set_weights(&mut scope, &args.weights, say_line)
}
