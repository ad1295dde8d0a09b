//! Which datagrams belong together, and for how long. Pure.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use balancer_common::flow::{self, MAX_SETS, MIN_SETS, Timeouts, WAYS};

/// How long a flow lasts in which nobody sends, unless something else is said: as the kernel's connection
/// tracking has it (`nf_conntrack_udp_timeout_stream`).
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The same of a flow that is not assured (`nf_conntrack_udp_timeout`), or the other if that is shorter.
const UNASSURED: Duration = Duration::from_secs(30);

/// How many flows there is room for unless something else is said.
pub const ROOM: u32 = 1 << 17;

/// That the datagrams of a client, by its address and port, go to one member: the table that they are
/// kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// How long a flow lasts in which nobody sends.
    pub timeout: Duration,
    /// Sets of the table.
    pub(crate) sets: u32,
    /// What makes its keys nobody else's.
    pub(crate) seed: u64,
}

impl Flows {
    /// With room for so many flows or a few more, and a seed of its own.
    pub fn new(timeout: Duration, room: u32) -> Self {
        let sets = room.div_ceil(WAYS).clamp(MIN_SETS, MAX_SETS);
        Self { timeout, sets, seed: RandomState::new().hash_one(()) }
    }

    /// Of a record; 0 sets are none.
    pub(crate) fn from_record(
        sets: u32,
        timeout: u32,
        seed: u64,
    ) -> Result<Option<Self>, &'static str> {
        match sets {
            0 => Ok(None),
            MIN_SETS..=MAX_SETS => {
                Ok(Some(Self { timeout: Duration::from_millis(timeout.into()), sets, seed }))
            }
            _ => Err("the size of its table of flows"),
        }
    }

    /// How many flows there is room for.
    pub fn room(&self) -> u32 {
        self.sets * WAYS
    }

    /// What the table takes of the kernel's memory, in octets.
    pub fn bytes(&self) -> u64 {
        let elements = u64::from(self.sets) * u64::from(flow::SET);
        elements * size_of::<balancer_common::record::Flow>() as u64
    }

    /// The timeouts, in the programs' ticks.
    pub fn timeouts(&self) -> Timeouts {
        let ticks = |time: Duration| {
            let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            flow::ticks(nanoseconds).max(1)
        };
        Timeouts { assured: ticks(self.timeout), unassured: ticks(self.timeout.min(UNASSURED)) }
    }
}

impl Default for Flows {
    fn default() -> Self {
        Self::new(TIMEOUT, ROOM)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn there_is_room_for_what_was_asked_for_within_bounds(room: u32) {
            let flows = Flows::new(TIMEOUT, room);
            prop_assert!(flows.room() >= room.min(MAX_SETS * WAYS));
            prop_assert!(flows.room() < room.max(MIN_SETS * WAYS).saturating_add(WAYS));
        }

        #[test]
        fn a_flow_that_is_not_assured_never_lasts_longer(seconds in 0..1_000_000u64) {
            let Timeouts { assured, unassured } = Flows::new(Duration::from_secs(seconds), 1).timeouts();
            prop_assert!(1 <= unassured && unassured <= assured);
        }
    }

    #[test]
    fn a_table_of_no_possible_size_is_refused() {
        assert_eq!(Flows::from_record(0, 1, 1), Ok(None));
        assert!(Flows::from_record(MAX_SETS, 1, 1).is_ok());
        for sets in [MIN_SETS - 1, MAX_SETS + 1, u32::MAX] {
            assert!(Flows::from_record(sets, 1, 1).is_err());
        }
    }

    #[test]
    fn each_table_has_a_seed_of_its_own() {
        assert_ne!(Flows::default().seed, Flows::default().seed);
    }
}
