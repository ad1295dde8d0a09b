//! `balancer detach`: gives a group back to the kernel's hash.

use anyhow::Result;

use crate::{
    cli::GroupArgs,
    commands::{open_group, vanished},
    privilege,
    render::say,
    steering::Store,
};

/// Detaches the program and removes the pins; the workers go on.
pub fn detach(args: &GroupArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let steering = open_group(store, args)?;
    let name = steering.name().to_owned();
    let lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    steering.take_down(store)?;
    drop(lock);
    say(format_args!("{name}: given back to the kernel's hash; its workers go on"))
}
