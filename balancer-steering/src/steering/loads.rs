//! What is known of each slot, in memory that programs write too.

use std::{mem::offset_of, os::fd::BorrowedFd, path::Path, sync::atomic::Ordering};

use balancer_common::{MAX_SLOTS, maps, record::LoadRecord, request};

use super::shared::SharedWords;
use crate::error::Result;

/// One [`LoadRecord`] per slot.
#[derive(Debug)]
pub(super) struct Loads(SharedWords);

const WORDS: usize = size_of::<LoadRecord>() / size_of::<u64>();

fn word(slot: u32, field: usize) -> usize {
    slot as usize * WORDS + field / size_of::<u64>()
}

/// Reads a field of a slot's record.
macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident: $field:ident,)+) => {
        $($(#[$doc])*
        pub fn $name(&self, slot: u32) -> u64 {
            self.0.get(word(slot, offset_of!(LoadRecord, $field)))
        })+
    };
}

impl Loads {
    /// Opens them under a group's directory.
    ///
    /// # Errors
    /// Returns an error if they are not there, or of another size.
    pub fn open(directory: &Path) -> Result<Self> {
        SharedWords::open(&directory.join(maps::LOAD), WORDS).map(Self)
    }

    /// The map.
    pub fn map(&self) -> BorrowedFd<'_> {
        self.0.map()
    }

    readers! {
        /// Connections, open and on their way: see [`balancer_common::load`].
        count: count,
        /// Connections that were established or moved there since its socket came.
        established: established,
        /// What is noted of its queue: see [`balancer_common::stall`].
        observed: observed,
        /// Cookie of the socket that the counts are of; 0 for none.
        tenant: tenant,
        /// Connections that owe an answer, and new ones: see [`balancer_common::request`].
        work: work,
        /// Where its times are counted, plus one; 0 for nowhere.
        times: times,
    }

    /// The share that it was published with; 0 where it turned out to be dead since.
    pub fn share(&self, slot: u32) -> u64 {
        let both = self.0.get(word(slot, offset_of!(LoadRecord, weight)));
        let [a, b, c, d, ..] = both.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d]).into()
    }

    /// Connections that came without a choice.
    pub fn unasked(&self, slot: u32) -> u64 {
        // One word with `chosen`, which is the lower half where the machine is little-endian.
        let both = self.0.get(word(slot, offset_of!(LoadRecord, chosen)));
        let [_, _, _, _, unasked @ ..] = both.to_ne_bytes();
        u32::from_ne_bytes(unasked).into()
    }

    /// Adds to the connections of a slot, while programs do the same.
    pub fn add(&self, slot: u32, more: u64) {
        let count = self.0.word(word(slot, offset_of!(LoadRecord, count)));
        count.fetch_add(more, Ordering::AcqRel);
    }

    /// Makes a slot another socket's; whose it was.
    pub fn set_tenant(&self, slot: u32, cookie: u64) -> u64 {
        let tenant = self.0.word(word(slot, offset_of!(LoadRecord, tenant)));
        tenant.swap(cookie, Ordering::AcqRel)
    }

    /// Says what share a slot is published with. The limit beside it is looked for anew.
    pub fn set_weight(&self, slot: u32, weight: u32) {
        let [a, b, c, d] = weight.to_ne_bytes();
        let both = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
        self.0.set(word(slot, offset_of!(LoadRecord, weight)), both);
    }

    /// Says which member its worker has in the next group of its service: see [`balancer_common::sibling`].
    pub fn set_sibling(&self, slot: u32, sibling: u64) {
        self.0.set(word(slot, offset_of!(LoadRecord, sibling)), sibling);
    }

    /// Forgets all of a slot but the era, which is the group's.
    pub fn clear(&self, slot: u32) {
        let era = word(slot, offset_of!(LoadRecord, era));
        let all = word(slot, 0)..word(slot, 0) + WORDS;
        all.filter(|&field| field != era).for_each(|field| self.0.set(field, 0));
    }

    /// Begins the next era: `apart`, if answers on connections that are established in it are to be counted
    /// apart. Also for slots that nobody has: a member that comes is in it too.
    pub fn advance_era(&self, apart: bool) {
        let era = |slot| word(slot, offset_of!(LoadRecord, era));
        let next = request::next_era(self.0.get(era(0)), apart);
        (0..MAX_SLOTS).for_each(|slot| self.0.set(era(slot), next));
    }

    /// Forgets what connections owe, and where their times were counted.
    pub fn forget_requests(&self) {
        for slot in 0..MAX_SLOTS {
            self.0.set(word(slot, offset_of!(LoadRecord, work)), 0);
            self.set_times(slot, 0);
        }
    }

    /// Says where a slot's times are counted, plus one.
    pub fn set_times(&self, slot: u32, times: u64) {
        self.0.set(word(slot, offset_of!(LoadRecord, times)), times);
    }

    /// Forgets when slots were last chosen: connections that are under way now were chosen for by
    /// another program, or by none.
    pub fn forget_choices(&self) {
        for slot in 0..MAX_SLOTS {
            let both = self.0.word(word(slot, offset_of!(LoadRecord, chosen)));
            let [.., a, b, c, d] = both.load(Ordering::Acquire).to_ne_bytes();
            both.store(u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d]), Ordering::Release);
        }
    }
}
