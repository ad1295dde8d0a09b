//! Who is in the table, and with what share.

use std::time::Duration;

use anyhow::Result;
use balancer_ebpf::{MAX_MEMBERS, record::SlotState};
use rustix::time::{ClockId, clock_gettime};

use super::{Member, Steering, object};
use crate::{
    group::Group,
    machine,
    policy::Shares,
    table::{Entry, Table},
    warmth::{self, warmth},
};

impl Steering {
    /// Builds the table of the live members and switches to it. When this returns, no choice that
    /// was made by the table before is under way any more.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn publish(&mut self) -> Result<()> {
        let group = self.group()?;
        let table = Table::build(&self.entries(&group)?, group.policy.shares(), object::cpus()?);
        self.maps.publish(&table)
    }

    /// Publishes anew where the share of a new member has grown since. Somebody is to call it all the
    /// time that members may be new, each [`warmth::step`].
    ///
    /// # Errors
    /// As [`Steering::publish`].
    pub fn grow(&mut self) -> Result<()> {
        let Some(_lock) = self.lock()? else { return Ok(()) };
        let entries = self.entries(&self.group()?)?;
        let is_as_published = |entry: &Entry| {
            let published = self.maps.share(entry.slot);
            published == 0 || published == entry.share()
        };
        if entries.iter().all(is_as_published) { Ok(()) } else { self.publish() }
    }

    fn entries(&self, group: &Group) -> Result<Vec<Entry>> {
        let mut live = self.members()?;
        live.retain(|member| member.state == SlotState::Live);
        if let Some(first) = live.get(MAX_MEMBERS as usize) {
            tracing::warn!(
                "the group {} has {} live members, and {MAX_MEMBERS} is the most that are steered: \
                 from slot {} on they get nothing but what is left to the kernel's hash",
                self.name,
                live.len(),
                first.slot
            );
            live.truncate(MAX_MEMBERS as usize);
        }
        let now = since_boot();
        Ok(live.iter().map(|member| entry(member, group, now, machine::only_cpu)).collect())
    }
}

/// A member's place in the table of its group. `now` is in milliseconds since boot; `cpu` tells the
/// only CPU of a process.
pub fn entry(
    member: &Member,
    group: &Group,
    now: u64,
    cpu: impl FnOnce(u32) -> Option<u32>,
) -> Entry {
    let pinned = group.policy.shares() == Shares::ByCpu;
    let age = Duration::from_millis(now.saturating_sub(member.since));
    Entry {
        slot: member.slot,
        weight: member.weight.get().into(),
        warmth: match group.tuning.slow_start {
            Some(time) if member.since > 0 => warmth(age, time),
            _ => warmth::FULL,
        },
        key: member.key,
        cpu: if pinned { cpu(member.worker.pid) } else { None },
    }
}

/// Now, in milliseconds since boot.
pub(super) fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    part(now.tv_sec) * 1000 + part(now.tv_nsec) / 1_000_000
}
