//! Everything that is known of a group at one moment, read from its maps.

use anyhow::Result;
use balancer_ebpf::{load::Source, record::SlotState, stall};
use rustix::time::{ClockId, clock_gettime};

use super::{Member, Steering};
use crate::{
    group::Group,
    snapshot::{GroupInfo, MemberInfo, MemberState, Snapshot},
    tuning,
};

impl Steering {
    /// Everything that is known of the group now.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let group = self.group()?;
        let tracked = self.is_tracked();
        let reports = group.policy.source(group.tuning.load) == Source::Reported;
        let mut members = Vec::new();
        let mut left = Vec::new();
        for member in self.all_slots()? {
            let state = self.state_of(&member, &group)?;
            let info = MemberInfo {
                slot: member.slot,
                pid: member.worker.pid,
                weight: member.weight.get(),
                state,
                open: tracked.then(|| self.open_connections(member.slot)),
                load: reports.then(|| self.reported(member.slot)),
                tally: self.maps.tally(member.slot)?,
            };
            if state == MemberState::Left { left.push(info) } else { members.push(info) }
        }
        let misses = self.maps.misses()?;
        Ok(Snapshot {
            group: GroupInfo {
                name: self.name.clone(),
                protocol: group.identity.protocol,
                address: group.identity.address.to_string(),
                netns: group.identity.netns,
            },
            policy: group.policy,
            options: group.tuning.into(),
            members,
            fallback: misses.fallback,
            errors: misses.errors,
            left,
            adopted: group.adopted,
        })
    }

    fn state_of(&self, member: &Member, group: &Group) -> Result<MemberState> {
        let stalls = || {
            let threshold = tuning::stall_ticks(group.tuning);
            let now = stall::ticks(monotonic());
            threshold > 0 && stall::is_stalled(self.maps.sighting(member.slot), now, threshold)
        };
        Ok(match member.state {
            SlotState::Vacant => MemberState::Left,
            _ if !self.is_seated(member)? => MemberState::Dead,
            SlotState::Draining => MemberState::Draining,
            SlotState::Leaving => MemberState::Leaving,
            SlotState::Live if group.policy.steers() && stalls() => MemberState::Stalled,
            SlotState::Live => MemberState::Live,
            SlotState::Starting => MemberState::Starting,
        })
    }
}

/// The programs' clock, in nanoseconds.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}
