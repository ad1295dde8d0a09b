//! The directory of cgroup2 that all processes are below. A program that is attached there is run for
//! the sockets of all of them.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use crate::error::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Opens it: where the unified layout has it mounted, or the mixed one; else, as on hosts that have
/// version 1 only, by a mount that nobody sees and that ends with the descriptor.
///
/// # Errors
/// Returns an error if none is mounted and none may be.
pub(super) fn root() -> Result<OwnedFd> {
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    let mounted = mounted(&mounts).and_then(|path| File::open(path).ok());
    if let Some(directory) = mounted {
        return Ok(directory.into());
    }
    private().context(
        "no cgroup2 is mounted here, and balancer cannot mount one (that needs CAP_SYS_ADMIN)",
    )
}

/// Where it is found: a directory, or `None` if it is mounted when it is needed.
///
/// # Errors
/// Returns an error if none is mounted and none may be.
pub fn check() -> Result<Option<PathBuf>> {
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    match mounted(&mounts) {
        Some(path) => Ok(Some(path)),
        None => root().map(|_| None),
    }
}

/// A mount of one's own, outside of every directory. Linux 5.2.
fn private() -> io::Result<OwnedFd> {
    let filesystem = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(filesystem.as_fd())?;
    let mount = fsmount(
        filesystem.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&mount, Path::new("."), flags, Mode::empty())?)
}

/// Where the whole hierarchy is mounted, as far as this cgroup namespace shows it. A mount of a part of
/// it, as a container may have it, does not have the others' sockets.
fn mounted(mounts: &str) -> Option<PathBuf> {
    let whole = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, path) = (fields.next()?, fields.next()?);
        // Above the root of a namespace it reads `/..`, and there is more below it.
        let is_whole = root.split('/').all(|name| name.is_empty() || name == "..");
        (kind.split(' ').next() == Some("cgroup2") && is_whole)
            .then(|| (root.len(), PathBuf::from(unescape(path))))
    };
    let widest = mounts.lines().filter_map(whole).max_by_key(|(above, _)| *above);
    widest.map(|(_, path)| path)
}

/// Spaces and the like are written in octal there.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mounts: &[&str]) -> Option<String> {
        mounted(&mounts.join("\n")).map(|path| path.display().to_string())
    }

    const UNIFIED: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const MIXED: &str = "31 24 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const LEGACY: &str = "32 24 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";

    #[test]
    fn the_hierarchy_is_found_in_every_layout_that_mounts_it() {
        assert_eq!(found(&[LEGACY, UNIFIED]).as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(found(&[LEGACY, MIXED]).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(found(&[LEGACY]), None);
        assert_eq!(found(&["", "nonsense", " - cgroup2"]), None);
    }

    #[test]
    fn a_mount_of_a_part_of_it_is_not_the_hierarchy() {
        let part = "33 24 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw";
        assert_eq!(found(&[part]), None);
        let above = "34 24 0:26 /../.. /host\\040cgroup rw - cgroup2 cgroup2 rw";
        assert_eq!(found(&[UNIFIED, above, part]).as_deref(), Some("/host cgroup"));
    }
}
