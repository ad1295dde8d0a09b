//! Connections that were there before counting began: found once, when servers are attached to.
//!
//! What comes later inherits its place from its listener. These have none, so they are looked for in
//! the processes of the members and told, one by one.

use std::collections::{BTreeMap, HashSet};

use crate::error::Result;

use crate::{
    discovery::{self, Cookies, Life},
    group::{GroupIdentity, Protocol},
    process::{self, Identity},
    steering::{Member, Steering},
};

/// What became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Open with a process that has several members, or with one that is not a member's: which member
    /// they came by cannot be known.
    pub unattributed: usize,
    /// Waited to be accepted, in whichever queue.
    pub waiting: usize,
}

impl Found {
    /// What is not counted, in words.
    pub fn shortcomings(self) -> impl Iterator<Item = String> {
        let Self { unattributed, waiting } = self;
        let unattributed = (unattributed > 0).then(|| {
            format!(
                "{unattributed} connections that were already open are not counted: their process has \
                 several members, and it is not known by which of them they came"
            )
        });
        let waiting = (waiting > 0).then(|| {
            format!("{waiting} connections that already waited to be accepted are not counted")
        });
        unattributed.into_iter().chain(waiting)
    }
}

/// The connections of a group that wait to be accepted, before any of its listeners is placed.
///
/// # Errors
/// Returns an error if the kernel does not list them.
pub fn waiting(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
) -> Result<Cookies> {
    let connections = discovery::connections(group, workers)?;
    let queued = connections.iter().filter(|connection| connection.life == Life::Queued);
    Ok(queued.map(|connection| connection.cookie).collect())
}

/// Counts those that members' processes have open. `waited` are those that waited before.
///
/// # Errors
/// Returns an error if the kernel does not list connections, or those of a process cannot be borrowed.
pub fn count(steering: &Steering, waited: &Cookies) -> Result<Found> {
    let group = steering.group()?;
    let members = steering.members()?;
    let mut found = Found::default();
    if !group.counted || group.identity.protocol == Protocol::Udp {
        return Ok(found);
    }
    let workers = members.iter().map(|member| member.worker);
    let connections = discovery::connections(&group.identity, workers)?;
    let still = |connection: &&discovery::Connection| {
        connection.life == Life::Queued && waited.contains(&connection.cookie)
    };
    let uncounted: Vec<u64> = connections.iter().filter(still).map(|c| c.cookie).collect();
    found.waiting = uncounted.len();
    steering.note_waiting(uncounted.into_iter())?;
    let mut open: HashSet<u64> = connections.iter().filter_map(|c| c.life.accepted()).collect();
    let (alone, several) = by_process(&members);
    for (worker, fds) in discovery::sockets_of(&alone.keys().copied().collect::<Vec<_>>()) {
        let Some(member) = alone.get(&worker) else { continue };
        for (inode, (process, fd)) in fds {
            if !open.remove(&inode) {
                continue;
            }
            // It may have ended since, or its process.
            if let Ok(socket) = process::duplicate_fd(process, fd, inode) {
                steering.note_connection(&socket, member)?;
            }
        }
    }
    for (_, fds) in discovery::sockets_of(&several.into_iter().collect::<Vec<_>>()) {
        found.unattributed += fds.keys().filter(|inode| open.remove(inode)).count();
    }
    Ok(found)
}

/// The members whose process has no other, by it; and the processes that have several.
fn by_process(members: &[Member]) -> (BTreeMap<u32, Member>, HashSet<u32>) {
    let (mut alone, mut several) = (BTreeMap::new(), HashSet::new());
    for member in members {
        let pid = member.worker.pid;
        if alone.insert(pid, *member).is_some() {
            several.insert(pid);
        }
    }
    alone.retain(|pid, _| !several.contains(pid));
    (alone, several)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::member;

    #[test]
    fn what_a_process_with_several_members_has_is_not_attributed_to_them() {
        let worker = |slot, pid| Member { worker: Identity { pid, start: 1 }, ..member(slot, 7) };
        let members = [worker(0, 10), worker(1, 11), worker(2, 10), worker(3, 12), worker(4, 10)];
        let (alone, several) = by_process(&members);
        assert_eq!(alone.values().map(|member| member.slot).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(several, HashSet::from([10]));
    }
}
