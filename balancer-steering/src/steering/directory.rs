//! Directories on bpffs: made, told apart, and removed; and where what all groups share is pinned.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use balancer_common::{LAYOUT_VERSION, maps};

use crate::error::{Context as _, Result};

/// Where what all groups of a host share is pinned, by the bpffs.
pub(super) fn shared(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("balancer-shared-{LAYOUT_VERSION}"))
}

/// As [`shared`], by the directory of a group.
pub(super) fn shared_by(group: &Path) -> PathBuf {
    shared(group.ancestors().nth(2).unwrap_or(group))
}

/// Where the shared maps are pinned, by name.
pub(super) fn shared_pins(directory: &Path) -> impl Iterator<Item = (&'static str, PathBuf)> {
    maps::SHARED.into_iter().map(move |name| (name, directory.join(name)))
}

/// Removes a pin, which may be gone.
pub(super) fn remove_pin(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the pin {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What tells a group's directory from a later one of its name.
pub(super) fn inode(directory: &Path) -> Result<u64> {
    let metadata = fs::metadata(directory);
    Ok(metadata.with_context(|| format!("cannot stat {}", directory.display()))?.ino())
}

/// Makes a directory that is its owner's alone, if there is none.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make the directory {}", path.display()))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the pins under {}", path.display()))
        }
        _ => Ok(()),
    }
}
