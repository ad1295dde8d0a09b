//! What a worker has to do in all groups of its service: the sum over its members there, read where it is
//! counted. So nothing has to be kept in step, and a group of no service pays nothing.

use balancer_common::{
    MAX_SERVICE_GROUPS,
    load::{self, MAX_LOAD, Source},
    record::LoadRecord,
    sibling,
};

use crate::{early::jiffies, maps, settings};

/// Connections of a slot's worker, open and on their way, or requests that it has yet to answer. A function of its
/// own for the verifier, which checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_service_load(slot: u32) -> u64 {
    let Some(record) = maps::load(slot) else { return MAX_LOAD };
    let now = load::lower(jiffies());
    let mut sum = load_at(record, maps::read(&record.count));
    let mut next = maps::read(&record.sibling);
    for _ in 1..MAX_SERVICE_GROUPS {
        let Some((group, slot)) = sibling::unpack(next) else { break };
        if group == settings::group() {
            break;
        }
        // It may have been given back.
        let Some(other) = maps::load_of(group, slot) else { break };
        sum += load_at(other, sibling::believable(maps::read(&other.count), other.chosen, now));
        next = maps::read(&other.sibling);
    }
    sum
}

#[inline(always)]
fn load_at(record: &LoadRecord, count: u64) -> u64 {
    if settings::source() == Source::ServiceRequests as u32 {
        load::requests(maps::read(&record.work), count)
    } else {
        load::connections(count)
    }
}
