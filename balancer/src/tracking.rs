//! Connections that the tracker cannot know of: those that were there before it. They are found by the
//! kernel's own listing of sockets, and told to it, each by whoever has it open.
//!
//! What the tracker counts can be compared with that listing at any time, see [`compare`].

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use balancer_ebpf::record::SlotState;

use crate::{
    discovery::{Accepted, accepted},
    group::Protocol,
    process,
    steering::{Member, Steering},
};

/// Tells the tracker of all connections that the group's workers have open and that it does not know;
/// how many those were. Nothing where connections are not counted.
///
/// One that waits in a queue that began before the tracker did is found once it is accepted.
///
/// # Errors
/// Where the kernel does not list connections, or those of a worker cannot be borrowed.
pub fn catch_up(steering: &Steering) -> Result<usize> {
    let mut new = 0;
    for (slot, connection) in open_connections(steering)? {
        // It may have ended since, or its worker.
        let borrowed = process::borrow_fd(connection.process, connection.fd, connection.inode);
        let Ok(socket) = borrowed else { continue };
        new += usize::from(steering.note_connection(&socket, slot)?);
    }
    Ok(new)
}

/// How many connections each slot's worker has open: counted by the tracker, and listed by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By the tracker.
    pub tracked: u64,
    /// By the kernel, as far as they are accepted.
    pub listed: u64,
}

/// Compares what the tracker counts with the kernel's own listing, by slot. The two are taken one
/// after the other: they agree where nothing changes meanwhile, and nothing waits to be accepted.
///
/// # Errors
/// As [`catch_up`].
pub fn compare(steering: &Steering) -> Result<BTreeMap<u32, Counts>> {
    let mut counts: BTreeMap<u32, Counts> = BTreeMap::new();
    for member in steering.members()? {
        counts.entry(member.slot).or_default().tracked = steering.open_connections(member.slot);
    }
    for (slot, _) in open_connections(steering)? {
        counts.entry(slot).or_default().listed += 1;
    }
    Ok(counts)
}

/// The connections of the group that its workers have open, with the slot of who has it.
fn open_connections(steering: &Steering) -> Result<Vec<(u32, Accepted)>> {
    let group = steering.group()?;
    if group.identity.protocol == Protocol::Udp || !steering.is_tracked() {
        return Ok(Vec::new());
    }
    let members: Vec<Member> = steering
        .members()?
        .into_iter()
        .filter(|member| member.state != SlotState::Vacant && member.worker.is_alive())
        .collect();
    let pids: HashSet<u32> = members.iter().map(|member| member.worker.pid).collect();
    let mut open = Vec::new();
    for member in &members {
        let others = pids.iter().copied().filter(|pid| *pid != member.worker.pid).collect();
        let found = accepted(&group.identity, member.worker, &others)?;
        open.extend(found.into_iter().map(|connection| (member.slot, connection)));
    }
    Ok(open)
}
