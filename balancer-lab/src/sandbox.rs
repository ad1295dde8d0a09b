//! Namespaces of one's own: whatever is done in them is gone with the last who is in them, however
//! that one ends.

use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// The index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Moves this thread, and all that it starts from now on, into a network of its own with nothing
/// but loopback, and mounts an empty bpffs of its own over `bpffs`, a directory. Call it before
/// other threads start: they stay behind.
///
/// # Errors
/// Returns an error if the kernel refuses; it wants CAP_SYS_ADMIN.
pub fn enter(bpffs: &Path) -> Result<()> {
    // SAFETY: the flags leave alone the table of descriptors, which other code may rely on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .context("cannot make a network namespace")?;
    // What is mounted from here on shall not appear outside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("cannot make the mounts private")?;
    mount("bpf", bpffs, "bpf", MountFlags::empty(), c"mode=0700")
        .with_context(|| format!("cannot mount a bpffs of our own at {}", bpffs.display()))?;
    bring_loopback_up().context("cannot bring loopback up in a network namespace of our own")
}

fn bring_loopback_up() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let up = rtnetlink::LinkUnspec::new_with_index(LOOPBACK).up().build();
        Ok(handle.link().set(up).execute().await?)
    })
}
