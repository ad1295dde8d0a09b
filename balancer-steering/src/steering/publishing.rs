//! Who is in the table, and with what share.

use std::time::Duration;

use crate::error::{ErrorKind, Result};
use balancer_common::{MAX_MEMBERS, record::SlotState};
use rustix::time::{ClockId, clock_gettime};

use super::{Member, Steering, object};
use crate::{
    affinity,
    group::GroupSpec,
    policy::Shares,
    slow_start,
    table::{Entry, Table},
};

impl Steering {
    /// Builds the table of the live members and switches to it. When this returns, no choice that
    /// was made by the table before is under way any more.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read or written.
    pub fn publish(&mut self) -> Result<()> {
        let group = self.group()?;
        let table = Table::build(&self.entries(&group)?, group.policy.shares(), object::cpus()?);
        self.maps.publish(&table)
    }

    /// Publishes anew if the share of a new member has grown since, and no other process has the group's
    /// lock. The agent calls it all the time that members may be new, each [`slow_start::step`].
    ///
    /// # Errors
    /// As [`Steering::publish`].
    pub fn grow(&mut self) -> Result<()> {
        let _lock = match self.try_lock() {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Busy => return Ok(()),
            Err(error) => return Err(error),
        };
        let entries = self.entries(&self.group()?)?;
        let is_as_published = |entry: &Entry| {
            let published = self.maps.loads.share(entry.slot);
            published == 0 || published == entry.share()
        };
        if entries.iter().all(is_as_published) { Ok(()) } else { self.publish() }
    }

    fn entries(&self, group: &GroupSpec) -> Result<Vec<Entry>> {
        let mut live = self.members()?;
        live.retain(|member| member.state == SlotState::Live);
        if let Some(first) = live.get(MAX_MEMBERS as usize) {
            tracing::warn!(
                "the group {} has {} live members, and {MAX_MEMBERS} is the most that are steered: \
                 from slot {} on they get only what is left to the kernel's hash",
                self.name,
                live.len(),
                first.slot
            );
            live.truncate(MAX_MEMBERS as usize);
        }
        let now = since_boot();
        Ok(live.iter().map(|member| entry(member, group, now, affinity::only_cpu)).collect())
    }
}

/// A member's place in the table of its group. `now` is in milliseconds since boot; `cpu` tells the
/// only CPU of a process.
pub fn entry(
    member: &Member,
    group: &GroupSpec,
    now: u64,
    cpu: impl FnOnce(u32) -> Option<u32>,
) -> Entry {
    let pinned = group.policy.shares() == Shares::ByCpu;
    let age = Duration::from_millis(now.saturating_sub(member.since));
    Entry {
        slot: member.slot,
        weight: member.weight.get().into(),
        factor: match group.options.slow_start {
            Some(time) if member.since > 0 => slow_start::factor(age, time),
            _ => slow_start::FULL,
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
