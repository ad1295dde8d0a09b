//! Which processes have a socket open, and which of them poll it: one walk over /proc.

use std::collections::{HashMap, HashSet};

use procfs::process::{FDTarget, Process};

use super::Holder;
use crate::process::{self, Identity};

/// A process that has a socket open, and what tells whether it accepts from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldBy {
    pub holder: Holder,
    /// PID of its parent.
    pub parent: u32,
    /// Whether the socket is in an epoll instance that it has open.
    pub polls: bool,
}

/// Who holds which socket, by the socket's inode.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<u64, Vec<HeldBy>>);

impl Holders {
    /// The holders of these sockets, as far as we may see them.
    pub fn of(inodes: impl Iterator<Item = u64>) -> Self {
        let wanted: HashSet<u64> = inodes.collect();
        let mut holders = Self::default();
        for process in procfs::process::all_processes().into_iter().flatten().flatten() {
            // It may end at any moment; then it holds nothing.
            holders.add(&process, &wanted);
        }
        for holders in holders.0.values_mut() {
            holders.sort_by_key(|held| held.holder.process.pid);
        }
        holders
    }

    /// The holders of a socket, by PID.
    pub fn of_socket(&self, inode: u64) -> &[HeldBy] {
        self.0.get(&inode).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, process: &Process, wanted: &HashSet<u64>) -> Option<()> {
        let mut sockets = HashMap::new();
        for fd in process.fd().ok()?.flatten() {
            if let FDTarget::Socket(inode) = fd.target
                && wanted.contains(&inode)
            {
                sockets.entry(inode).or_insert(fd.fd);
            }
        }
        if sockets.is_empty() {
            return None;
        }
        let stat = process.stat().ok()?;
        let identity = Identity { pid: u32::try_from(stat.pid).ok()?, start: stat.starttime };
        let parent = u32::try_from(stat.ppid).unwrap_or_default();
        let sets = process::epoll_sets(process).into_iter();
        let polled: HashSet<u64> =
            sets.flat_map(|(_, watched)| watched).map(|watched| watched.inode).collect();
        for (inode, fd) in sockets {
            let holder = Holder { process: identity, fd, command: stat.comm.clone() };
            let held = HeldBy { holder, parent, polls: polled.contains(&inode) };
            self.0.entry(inode).or_default().push(held);
        }
        Some(())
    }
}
