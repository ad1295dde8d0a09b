//! `balancer detach`: gives a group back to the kernel's hash.

use anyhow::Result;

use crate::{
    cli::GroupArgs,
    commands::{open_group, vanished},
    drain, privilege,
    render::say,
    steering::Store,
};

/// Detaches the program and removes the pins; the workers go on.
pub fn detach(args: &GroupArgs, store: &Store) -> Result<()> {
    privilege::require()?;
    let steering = open_group(store, args)?;
    let name = steering.name().to_owned();
    let lock = steering.lock()?.ok_or_else(|| vanished(&steering))?;
    let drained = drain::drained(&steering.snapshot()?.members);
    steering.take_down(store)?;
    drop(lock);
    for pid in drained {
        tracing::warn!("PID {pid} was drained; the kernel's hash gives it new connections again");
    }
    say(format_args!("{name}: given back to the kernel's hash; its workers go on"))
}
