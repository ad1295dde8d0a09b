//! Joins the members of a service's groups by their workers: those of one worker are a ring, and programs add up
//! what is counted there. A worker is a process. If it has several members in each group, as of threads, the first
//! is joined with the first, the second with the second.

use std::collections::BTreeMap;

use balancer_common::sibling;

use super::{Member, Steering, Store};
use crate::{error::Result, group::Protocol, process::Identity, service::ServiceName};

/// How often members may come and go in the middle of it. Whoever changes a member joins them anew.
const ATTEMPTS: u32 = 8;

impl Steering {
    /// Joins the members of the groups of its service, if it is of one. It takes no lock, and may be called while
    /// others do the same.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub(crate) fn join_service(&self) -> Result<()> {
        match self.group()?.service {
            Some(service) => join(&Store::of(&self.directory), service),
            None => Ok(()),
        }
    }
}

/// Joins the members of all groups of a service.
///
/// # Errors
/// Returns an error if a map cannot be read.
pub fn join(store: &Store, service: ServiceName) -> Result<()> {
    let mut groups = Vec::new();
    for name in store.names()? {
        // Another build's, or given back since it was listed.
        let Ok(steering) = Steering::open(store, &name) else { continue };
        let Ok(group) = steering.group() else { continue };
        let tcp = group.identity.protocol == Protocol::Tcp;
        if group.service == Some(service) && group.counted && tcp {
            groups.push((group.index, steering));
        }
    }
    let members = || {
        let each = groups.iter().map(|(index, steering)| Ok((*index, steering.members()?)));
        each.collect::<Result<Vec<_>>>()
    };
    let mut before = members()?;
    for _ in 0..ATTEMPTS {
        for ((_, steering), joined) in groups.iter().zip(joined(&before)) {
            joined.iter().for_each(|&(slot, next)| steering.maps.loads.set_sibling(slot, next));
        }
        // Another process may have written what it found earlier than we did: the one that looks last is right.
        let now = members()?;
        let workers =
            |all: &[(u32, Vec<Member>)]| all.iter().map(|(_, m)| slots(m)).collect::<Vec<_>>();
        if workers(&now) == workers(&before) {
            break;
        }
        before = now;
    }
    Ok(())
}

fn slots(members: &[Member]) -> Vec<(u32, Identity)> {
    members.iter().map(|member| (member.slot, member.worker)).collect()
}

/// For each group its slots, each with the sibling in the next group, 0 for none. Groups are named by their index
/// among those of the host.
fn joined(groups: &[(u32, Vec<Member>)]) -> Vec<Vec<(u32, u64)>> {
    // A worker, and the how-manieth of its members in each group.
    let mut rings: BTreeMap<(u32, u64, usize), Vec<(u32, u32)>> = BTreeMap::new();
    for (group, members) in groups {
        let mut had: BTreeMap<(u32, u64), usize> = BTreeMap::new();
        for Member { slot, worker: Identity { pid, start }, .. } in members {
            // Of one that is not started yet it is not known whose it will be.
            if *pid != 0 {
                let place = had.entry((*pid, *start)).or_default();
                rings.entry((*pid, *start, *place)).or_default().push((*group, *slot));
                *place += 1;
            }
        }
    }
    let mut next = BTreeMap::new();
    for ring in rings.values().filter(|ring| ring.len() > 1) {
        for (member, (group, slot)) in ring.iter().zip(ring.iter().cycle().skip(1)) {
            next.insert(*member, sibling::pack(*group, *slot));
        }
    }
    let of = |group: u32, slot: u32| next.get(&(group, slot)).copied().unwrap_or_default();
    let of_group = |(group, members): &(u32, Vec<Member>)| {
        members.iter().map(|member| (member.slot, of(*group, member.slot))).collect()
    };
    groups.iter().map(of_group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::member;

    fn members(workers: &[(u32, u32)]) -> Vec<Member> {
        let worker = |pid| Identity { pid, start: 1 };
        workers
            .iter()
            .map(|&(slot, pid)| Member { worker: worker(pid), ..member(slot, 7) })
            .collect()
    }

    /// A slot, with the group and slot of the next.
    type Named = (u32, Option<(u32, u32)>);

    /// Those of each group.
    fn named(groups: &[(u32, Vec<Member>)]) -> Vec<Vec<Named>> {
        let each = joined(groups).into_iter();
        each.map(|slots| slots.into_iter().map(|(s, next)| (s, sibling::unpack(next))).collect())
            .collect()
    }

    #[test]
    fn a_worker_is_a_ring_over_all_groups_that_it_is_in() {
        let groups = [
            (5, members(&[(0, 70), (1, 71)])),
            (0, members(&[(3, 71), (4, 70)])),
            (9, members(&[(2, 71)])),
        ];
        assert_eq!(
            named(&groups),
            [
                vec![(0, Some((0, 4))), (1, Some((0, 3)))],
                vec![(3, Some((9, 2))), (4, Some((5, 0)))],
                vec![(2, Some((5, 1)))],
            ]
        );
    }

    #[test]
    fn of_a_process_with_several_members_each_is_joined_with_its_like() {
        let groups =
            [(1, members(&[(0, 70), (1, 70)])), (2, members(&[(6, 70), (8, 70), (9, 70)]))];
        assert_eq!(
            named(&groups),
            [
                vec![(0, Some((2, 6))), (1, Some((2, 8)))],
                vec![(6, Some((1, 0))), (8, Some((1, 1))), (9, None)],
            ]
        );
    }

    #[test]
    fn processes_of_one_number_at_different_times_and_workers_that_are_not_started_are_not_joined()
    {
        let mut later = members(&[(0, 70), (1, 0)]);
        later[0].worker.start = 2;
        let groups = [(1, members(&[(0, 70), (1, 0)])), (2, later)];
        assert!(named(&groups).iter().flatten().all(|(_, next)| next.is_none()));
    }
}
