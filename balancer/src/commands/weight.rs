//! `balancer weight`: changes weights in a running group.

use anyhow::Result;
use balancer_steering::{privilege, steering::Store};

use crate::{
    cli::WeightArgs,
    commands::{open_group, say_line},
    operations,
};

/// Changes all weights in one step, or none.
pub fn weight(args: &WeightArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let mut steering = open_group(store, &args.group)?;
    operations::set_weights(&mut steering, &args.weights, say_line)
}
