//! A process and its descendants: a worker may be a wrapper whose child serves, or a server that
//! forks for each connection.

use std::collections::{HashMap, HashSet};

use procfs::process::{FDTarget, Process};

use crate::process::Identity;

/// The PIDs of a process and all that descend from it, but for `others` and what descends from
/// those: they are workers of their own.
pub(super) fn of(pid: u32, others: &HashSet<u32>) -> Vec<u32> {
    descend(pid, &children(), others)
}

/// Sockets by inode: a process that has it open, and its descriptor there.
pub type Sockets = HashMap<u64, (Identity, i32)>;

/// The sockets that each of several workers and its descendants have open, by the worker's PID.
pub fn sockets_of(pids: &[u32]) -> Vec<(u32, Sockets)> {
    let (children, all) = (children(), HashSet::from_iter(pids.iter().copied()));
    pids.iter().map(|&pid| (pid, sockets(&descend(pid, &children, &all)))).collect()
}

fn children() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in procfs::process::all_processes().into_iter().flatten().flatten() {
        let Ok(stat) = process.stat() else { continue };
        children.entry(stat.ppid.unsigned_abs()).or_default().push(stat.pid.unsigned_abs());
    }
    children
}

fn descend(pid: u32, children: &HashMap<u32, Vec<u32>>, others: &HashSet<u32>) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next) {
        let born = children.get(parent).into_iter().flatten();
        // /proc is read process by process, so what it says together need not be a tree.
        let new: Vec<u32> =
            born.copied().filter(|pid| !others.contains(pid) && !family.contains(pid)).collect();
        family.extend(new);
        next += 1;
    }
    family
}

/// The sockets that these processes have open, by inode: one holder of each, and its descriptor.
/// Of several holders it is the last in the list, so a child before its parent.
pub(super) fn sockets(family: &[u32]) -> Sockets {
    let mut sockets = HashMap::new();
    for &pid in family {
        // It may end at any moment; then it has nothing open.
        let Some(identity) = Identity::of(pid) else { continue };
        let Some(process) = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok()) else {
            continue;
        };
        for fd in process.fd().into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                sockets.insert(inode, (identity, fd.fd));
            }
        }
    }
    sockets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_process_and_its_descendants_without_other_workers() {
        let children =
            HashMap::from([(1, vec![7, 8]), (7, vec![9, 10]), (9, vec![11]), (10, vec![12])]);
        assert_eq!(descend(7, &children, &HashSet::from([10])), [7, 9, 11]);
        assert_eq!(descend(8, &children, &HashSet::new()), [8]);
    }

    #[test]
    fn a_family_that_reads_as_a_ring_ends() {
        let children = HashMap::from([(7, vec![8]), (8, vec![7])]);
        assert_eq!(descend(7, &children, &HashSet::new()), [7, 8]);
    }
}
