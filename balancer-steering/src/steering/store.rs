//! The directory on bpffs where groups are pinned: `<bpffs>/balancer/<group>/<map or program>`.
//! All of balancer's state is there; there is no other.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::error::{Context as _, Error, ErrorKind, Result, bail};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with, statfs},
    mount::{MountFlags, mount},
};

use super::{
    directory::{make_directory, remove_directory},
    host::Host,
    lock::{self, Lock, Wait},
    service, trust,
};
use crate::{privilege::sudo_line, process::Identity};

/// Where bpffs is by convention, and where root mounts it when it lacks.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

// linux/magic.h
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

const UNFINISHED: &str = "unfinished-";

/// The pinned groups.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// Whether a bpffs is mounted there.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(BPF_FS_MAGIC))
}

impl Store {
    /// The store on the given bpffs, which need not exist: then nothing is pinned.
    pub fn at(bpffs: &Path) -> Self {
        Self { root: bpffs.join("balancer") }
    }

    /// The store that a group is in, by the directory of the group.
    pub(super) fn of(group: &Path) -> Self {
        Self { root: group.parent().unwrap_or(group).to_owned() }
    }

    /// The store on the given bpffs, mounted if it lacks and we may.
    ///
    /// # Errors
    /// Returns an error if no bpffs is mounted there and none can be.
    pub fn prepare(bpffs: &Path) -> Result<Self> {
        if !is_bpffs(bpffs) {
            mount_bpffs(bpffs)?;
            tracing::info!("mounted bpffs at {}", bpffs.display());
        }
        let store = Self::at(bpffs);
        store.check()?;
        store.sweep();
        Ok(store)
    }

    /// What all groups share.
    pub(super) fn host(&self) -> Host {
        Host::on(self.root.parent().unwrap_or(&self.root))
    }

    /// The lock of what all groups share, for as long as groups come or go.
    pub(super) fn lock_host(&self) -> Result<Lock> {
        lock::host(&self.root.join("group"), Wait::Some)
    }

    /// Where the group of this name is pinned.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The names of all groups, sorted.
    ///
    /// # Errors
    /// Returns an error if the store exists but cannot be read, for lack of privilege most likely; or where others
    /// than root could have made or changed what is in it.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = self.entries().with_context(|| {
            let root = self.root.display();
            format!("cannot list the groups under {root}; try: {}", sudo_line())
        })?;
        names.retain(|name| !name.starts_with(UNFINISHED));
        self.check()?;
        names.iter().try_for_each(|name| trust::check_all(&self.directory(name)))?;
        names.sort();
        Ok(names)
    }

    /// Where the group of this name is pinned, if only root can have made and can change what is
    /// there.
    ///
    /// # Errors
    /// Names what is somebody else's, open to others, or a symbolic link.
    pub(super) fn pins_of(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory(name);
        self.check()?;
        trust::check_all(&directory)?;
        Ok(directory)
    }

    /// Whether the store itself is ours to use, as [`Store::pins_of`] a group's pins.
    fn check(&self) -> Result<()> {
        if trust::check(&self.root)?.is_some()
            && let Some(bpffs) = self.root.parent()
        {
            trust::check_bpffs(bpffs)?;
        }
        self.host().check()
    }

    fn entries(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// An empty directory to pin into, out of everybody's sight until [`Store::publish`].
    pub(super) fn begin(&self) -> Result<PathBuf> {
        make_directory(&self.root)?;
        // Not before: somebody else might have made it meanwhile.
        self.check()?;
        let directory = self.unfinished();
        remove_directory(&directory)?;
        make_directory(&directory)?;
        Ok(directory)
    }

    /// Takes back [`Store::begin`].
    pub(super) fn abandon(&self, unfinished: &Path) -> Result<()> {
        remove_directory(unfinished)?;
        self.remove_if_empty()
    }

    /// Gives a finished directory its name, in one step.
    pub(super) fn publish(&self, unfinished: &Path, name: &str) -> Result<PathBuf> {
        let directory = self.directory(name);
        renameat_with(CWD, unfinished, CWD, &directory, RenameFlags::NOREPLACE)
            .with_context(|| format!("cannot pin the group at {}", directory.display()))?;
        Ok(directory)
    }

    /// Removes what creators left that were killed half-way.
    fn sweep(&self) {
        for name in self.entries().unwrap_or_default() {
            let creator = name.strip_prefix(UNFINISHED).and_then(|pid| pid.parse().ok());
            if creator.is_some_and(|pid| Identity::of(pid).is_none()) {
                let _ = remove_directory(&self.root.join(name));
            }
        }
    }

    /// Removes a group's pins. What is attached stays attached.
    ///
    /// # Errors
    /// Returns an error if a pin cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.check()?;
        let _lock = self.lock_host()?;
        let index = super::Steering::open(self, name).and_then(|steering| steering.group());
        // Out of everybody's sight in one step: who is killed on the way leaves no half of a group.
        let leaving = self.unfinished();
        remove_directory(&leaving)?;
        match fs::rename(self.directory(name), &leaving) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the group {name}"));
            }
            _ => remove_directory(&leaving)?,
        }
        if let Ok(group) = index {
            self.host().forget_group(group.index);
            // Its number may be another group's soon, under the host's lock.
            if let Some(service) = group.service
                && let Err(error) = service::join(self, service)
            {
                tracing::warn!(
                    "the load of the service {service} still has {name} in it: {error:#}"
                );
            }
        }
        self.remove_if_empty()
    }

    /// What this process has begun to make or to remove.
    fn unfinished(&self) -> PathBuf {
        self.root.join(format!("{UNFINISHED}{}", std::process::id()))
    }

    /// Leaves nothing behind after the last group. Under the host's lock.
    fn remove_if_empty(&self) -> Result<()> {
        let _ = fs::remove_dir(&self.root);
        if self.root.exists() { Ok(()) } else { self.host().remove() }
    }
}

fn mount_bpffs(path: &Path) -> Result<()> {
    let remedy = format!("mount one: sudo mount -t bpf bpf {}", path.display());
    if !path.is_dir() {
        let sentence =
            format!("{} is not a directory, so no bpffs can be mounted there", path.display());
        return Err(Error::of_kind(ErrorKind::NoBpffs, sentence));
    }
    // Only at its usual place: elsewhere, the path is more likely to be a mistake.
    if path != Path::new(DEFAULT_BPFFS) {
        bail!("no bpffs is mounted at {}; {remedy}", path.display());
    }
    mount(
        "bpf",
        path,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        c"mode=0700",
    )
    .with_context(|| {
        format!("no bpffs is mounted at {} and mounting failed; {remedy}", path.display())
    })
}
