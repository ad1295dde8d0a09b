//! Keeps what the tracker counts true to the kernel's own listing of connections.
//!
//! The tracker is told of what happens to connections, not of what there is: those that were there before
//! it are found in the listing, and told to it ([`catch_up`]). And should it ever have missed or made
//! up one, it is set right by that listing ([`Reconciler`]).

use std::collections::BTreeMap;

use anyhow::Result;
use balancer_ebpf::record::SlotState;

use crate::{
    discovery::{Connections, Holding, held},
    group::Protocol,
    process,
    steering::{Member, Steering},
};

/// How many connections a slot's worker has: counted by the tracker, and listed by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By the tracker.
    pub tracked: u64,
    /// By the kernel: those it has open, and those that wait at its socket.
    pub listed: u64,
}

/// Tells the tracker of all connections that the group's workers have open and that it does not know;
/// how many those were. Nothing where connections are not counted.
///
/// One that waits in a queue that began before the tracker did is found once it is accepted.
///
/// # Errors
/// Where the kernel does not list connections, or those of a worker cannot be borrowed.
pub fn catch_up(steering: &Steering) -> Result<usize> {
    let mut new = 0;
    for (slot, connections) in list(steering)? {
        new += tell(steering, slot, &connections)?;
    }
    Ok(new)
}

fn tell(steering: &Steering, slot: u32, connections: &Connections) -> Result<usize> {
    let mut new = 0;
    for connection in &connections.held {
        // It may have ended since, or its worker.
        let borrowed = process::borrow_fd(connection.process, connection.fd, connection.inode);
        let Ok(socket) = borrowed else { continue };
        new += usize::from(steering.note_connection(&socket, slot)?);
    }
    Ok(new)
}

/// Compares what the tracker counts with the kernel's own listing, by slot. The two are taken one
/// after the other: they agree where nothing changes meanwhile.
///
/// # Errors
/// As [`catch_up`].
pub fn compare(steering: &Steering) -> Result<BTreeMap<u32, Counts>> {
    let counted: BTreeMap<u32, u64> = alone(steering.members()?)
        .into_iter()
        .map(|member| (member.slot, steering.open_connections(member.slot)))
        .collect();
    let listed = list(steering)?;
    Ok(counted
        .into_iter()
        .map(|(slot, tracked)| {
            let of_slot = listed.get(&slot);
            let listed = of_slot.map_or(0, |c| c.held.len() as u64 + c.queued);
            (slot, Counts { tracked, listed })
        })
        .collect())
}

/// The connections of the group's workers, by slot.
fn list(steering: &Steering) -> Result<BTreeMap<u32, Connections>> {
    let group = steering.group()?;
    if group.identity.protocol == Protocol::Udp || !steering.is_tracked() {
        return Ok(BTreeMap::new());
    }
    let mut members = alone(steering.members()?);
    members.retain(|member| member.state != SlotState::Vacant && member.worker.is_alive());
    let holdings: Vec<Holding> = members
        .iter()
        .map(|member| Holding { worker: member.worker, cookie: member.cookie })
        .collect();
    let connections = held(&group.identity, &holdings)?;
    Ok(members.iter().map(|member| member.slot).zip(connections).collect())
}

/// Those whose worker has no other slot: which of several sockets of a process a connection came in by
/// is known to the tracker alone.
fn alone(mut members: Vec<Member>) -> Vec<Member> {
    let mut slots = BTreeMap::<_, usize>::new();
    for member in &members {
        *slots.entry(member.worker.pid).or_default() += 1;
    }
    members.retain(|member| slots[&member.worker.pid] == 1);
    members
}

/// Compares again and again, and sets right what is wrong twice in a row while nothing happens.
#[derive(Debug, Default)]
pub struct Reconciler {
    last: BTreeMap<u32, Counts>,
}

impl Reconciler {
    /// Looks once, and sets right what was wrong the last time too; returns the slots and by how much.
    ///
    /// # Errors
    /// As [`catch_up`].
    pub fn look(&mut self, steering: &Steering) -> Result<Vec<(u32, i64)>> {
        if !steering.is_tracked() {
            self.last.clear();
            return Ok(Vec::new());
        }
        let now = compare(steering)?;
        let wrong = drifted(&self.last, &now);
        self.last = now;
        // Those that are not known to it at all must be made known, or they would be counted off never.
        if wrong.iter().any(|(_, by)| *by > 0) && catch_up(steering)? > 0 {
            return Ok(Vec::new());
        }
        for &(slot, by) in &wrong {
            tracing::warn!("slot {slot}: open connections were counted wrong, set right by {by:+}");
            steering.correct_open_connections(slot, by);
        }
        Ok(wrong)
    }
}

/// The slots that were wrong the same way in two looks, between which nothing happened, and by how much
/// too few.
fn drifted(before: &BTreeMap<u32, Counts>, now: &BTreeMap<u32, Counts>) -> Vec<(u32, i64)> {
    now.iter()
        .filter(|(slot, counts)| before.get(slot) == Some(*counts))
        .map(|(&slot, counts)| (slot, counts.listed.cast_signed() - counts.tracked.cast_signed()))
        .filter(|(_, by)| *by != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{process::Identity, steering::tests::member};

    #[test]
    fn what_a_process_with_several_slots_has_is_not_attributed_to_them() {
        let worker = |slot, pid| Member { worker: Identity { pid, start: 1 }, ..member(slot, 7) };
        let members = vec![worker(0, 10), worker(1, 11), worker(2, 10), worker(3, 12)];
        let slots: Vec<u32> = alone(members).iter().map(|member| member.slot).collect();
        assert_eq!(slots, [1, 3]);
    }

    #[test]
    fn only_what_is_wrong_twice_while_nothing_happens_has_drifted() {
        let look = |counts: [(u64, u64); 4]| -> BTreeMap<u32, Counts> {
            let counts = counts.map(|(tracked, listed)| Counts { tracked, listed });
            (0..).zip(counts).collect()
        };
        let before = look([(5, 5), (7, 6), (9, 8), (3, 4)]);
        let now = look([(5, 5), (7, 6), (10, 9), (3, 4)]);
        assert_eq!(drifted(&before, &now), [(1, -1), (3, 1)]);
        assert_eq!(drifted(&BTreeMap::new(), &now), []);
    }
}
