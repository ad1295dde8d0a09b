//! Everything that is known of a group at one moment, read from its maps.

use crate::error::Result;
use balancer_common::{
    load::{self, Source},
    record::SlotState,
    stall,
};
use rustix::time::{ClockId, clock_gettime};

use super::{Member, Steering, flows::FlowTable};
use crate::{
    agent_record::AgentState,
    discovery,
    group::{GroupSpec, Protocol},
    options,
    snapshot::{FlowsInfo, GroupInfo, MemberInfo, MemberState, Snapshot},
};

impl Steering {
    /// Everything that is known of the group now.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.snapshot_of(&self.group()?, &self.agent_state()?, &self.all_slots()?)
    }

    /// As [`Steering::snapshot`], with records that were read already; vacant slots included.
    pub(super) fn snapshot_of(
        &self,
        group: &GroupSpec,
        agent: &AgentState,
        all: &[Member],
    ) -> Result<Snapshot> {
        let reports = group.policy.source(group.options.load) == Source::Reported;
        let tcp = group.identity.protocol == Protocol::Tcp;
        let tracking = tcp && group.counted && self.is_tracking();
        let table = group.flows.map(|flows| FlowTable::open(&self.directory, flows)).transpose()?;
        let open_flows = table.map(|table| table.open_flows()).unwrap_or_default();
        let open = |member: &Member| match group.flows {
            Some(_) => open_flows.get(&(member.slot, member.cookie)).copied().unwrap_or_default(),
            None => self.open_connections(member.slot),
        };
        let mut members = Vec::new();
        let mut left = Vec::new();
        let stalled = self.stalled(group, all)?;
        for member in all {
            let state = self.state_of(member, &stalled)?;
            let info = MemberInfo {
                slot: member.slot,
                pid: member.worker.pid,
                weight: member.weight.get(),
                state,
                unattended: stalled
                    .iter()
                    .find(|s| s.slot == member.slot)
                    .and_then(|s| s.unattended),
                busy: tracking.then(|| self.busy(member.slot)),
                open: group.counted.then(|| open(member)),
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
                service: group.service,
            },
            policy: group.policy,
            options: group.options.into(),
            members,
            fallback: misses.fallback,
            errors: misses.errors,
            left,
            unasked: all.iter().map(|member| self.maps.loads.unasked(member.slot)).sum(),
            displaced: agent.displaced,
            counted: group.counted,
            flows: group.flows.map(|flows| FlowsInfo {
                timeout_ms: u64::try_from(flows.timeout.as_millis()).unwrap_or(u64::MAX),
                room: flows.room(),
                bytes: flows.bytes(),
                evicted: misses.evicted,
                evicted_unassured: misses.evicted_unassured,
            }),
        })
    }

    fn state_of(&self, member: &Member, stalled: &[Stalled]) -> Result<MemberState> {
        Ok(match member.state {
            SlotState::Vacant => MemberState::Left,
            _ if !self.is_seated(member)? => MemberState::Dead,
            SlotState::Draining => MemberState::Draining,
            SlotState::Leaving => MemberState::Leaving,
            SlotState::Live if stalled.iter().any(|s| s.slot == member.slot) => {
                MemberState::Stalled
            }
            SlotState::Live => MemberState::Live,
            SlotState::Starting => MemberState::Starting,
        })
    }

    /// Slots that stand still: by what programs have noted, and by their queues as they are now. The
    /// kernel is asked for those only if a note says so.
    fn stalled(&self, group: &GroupSpec, members: &[Member]) -> Result<Vec<Stalled>> {
        let threshold = options::stall_ticks(group.options);
        let udp = group.identity.protocol == Protocol::Udp;
        if threshold == 0 || !group.policy.steers() || !(udp || group.counted) {
            return Ok(Vec::new());
        }
        let now = stall::ticks(monotonic());
        // What is shown as stalled is passed over by the very next choice.
        let threshold = threshold + if udp { 0 } else { stall::late(threshold) };
        let may = |member: &&Member| {
            let word = self.maps.loads.observed(member.slot);
            let established = load::lower(self.maps.loads.established(member.slot));
            member.state == SlotState::Live
                && stall::is_stalled(word, now, threshold)
                && (udp || !stall::is_first(word, established))
        };
        let noted: Vec<&Member> = members.iter().filter(may).collect();
        if noted.is_empty() {
            return Ok(Vec::new());
        }
        let workers = members.iter().map(|member| member.worker);
        let queues = discovery::queues(&group.identity, workers)?;
        let judge = |member: &&Member| {
            let waiting = queues.get(&member.cookie).copied().unwrap_or_default();
            let established = self.maps.loads.established(member.slot);
            let accepted = load::lower(established).wrapping_sub(waiting);
            let word = self.maps.loads.observed(member.slot);
            let still = waiting > 0 && (udp || stall::stands_still(word, accepted, now, threshold));
            let never = !udp && established <= waiting.into();
            still.then(|| Stalled { slot: member.slot, unattended: never.then_some(waiting) })
        };
        Ok(noted.iter().filter_map(judge).collect())
    }
}

/// A slot that stands still.
struct Stalled {
    slot: u32,
    /// How many wait, if nobody was ever accepted from it.
    unattended: Option<u32>,
}

/// The programs' clock, in nanoseconds: that of the last timer interrupt.
pub(super) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}
