//! Namespaces of this process alone: whatever it does is gone when it ends, however it ends.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use balancer::steering::DEFAULT_BPFFS;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};

/// Moves this thread, and all that it starts from now on, into a network of its own with nothing
/// but loopback, and to an empty bpffs.
///
/// # Errors
/// Where this is not root, or the kernel refuses.
pub fn enter() -> Result<()> {
    if !geteuid().is_root() {
        bail!(
            "this makes a network namespace and loads programs, so it needs root: cargo xtask bench"
        );
    }
    // SAFETY: the flags leave alone the table of descriptors, which other code may rely on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .context("cannot make a network namespace")?;
    // What is mounted from here on shall not appear outside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make the mounts private")?;
    // Over the machine's own, if there is one; the mount point is part of sysfs.
    mount("bpf", Path::new(DEFAULT_BPFFS), "bpf", MountFlags::empty(), c"mode=0700")
        .with_context(|| format!("cannot mount a bpffs of our own at {DEFAULT_BPFFS}"))?;
    let ip = ["ip", "link", "set", "lo", "up"];
    let status = Command::new(ip[0]).args(&ip[1..]).status();
    match status.context("cannot start `ip`; install iproute2")?.success() {
        true => Ok(()),
        false => bail!("`{}` failed", ip.join(" ")),
    }
}
