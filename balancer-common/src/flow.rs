//! UDP's connections: a client's address and port, and the slot that it was given to.
//!
//! They are kept in sets of [`WAYS`]; a client's key says which set. A new flow takes the place of the one
//! in its set that is missed least: one that has ended; else one that is not assured, and of those the one
//! that has been silent for longest; only then an assured one. A flow is assured once its client has sent
//! after its worker had (as the kernel's connection tracking calls it, which asks for less). So a flood from
//! forged addresses, which hear no answer, crowds out itself and nobody who is served.

use crate::{address::Address, draw, load::lower, record::Flow};

/// Elements of the table to a set: a head and its ways.
pub const SET: u32 = 16;

/// Flows that a set has room for.
pub const WAYS: u32 = SET - 1;

/// The fewest and the most sets of a table.
pub const MIN_SETS: u32 = 64;
/// As above.
pub const MAX_SETS: u32 = 1 << 17;

/// A tick of the flows' clock is 2²⁶ ns, 67 ms; 32 bits of them go round in nine years.
const TICK_SHIFT: u32 = 26;

/// A time or a duration, in nanoseconds, in ticks.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "ticks go round, see `TICK_SHIFT`")]
pub const fn ticks(nanoseconds: u64) -> u32 {
    (nanoseconds >> TICK_SHIFT) as u32
}

/// What a client is known by. Never 0, which is nobody. Whoever does not know the seed cannot aim at a set.
/// The port is in network byte order.
#[inline(always)]
pub const fn key(client: Address, port: u16, seed: u64) -> u64 {
    let [high, low] = client.halves();
    let key = draw::mix(draw::mix(draw::mix(seed ^ high) ^ low) ^ port as u64);
    if key == 0 { 1 } else { key }
}

/// The head of a key's set, in a table of so many sets.
#[inline(always)]
pub const fn head(key: u64, sets: u32) -> u32 {
    draw::scale(lower(key >> 32), sets) * SET
}

/// How long flows last in which nobody sends, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Those that are assured.
    pub assured: u32,
    /// The others.
    pub unassured: u32,
}

/// What [`Flow::asked`] is after the client has sent.
#[inline(always)]
pub const fn asked(flow: &Flow) -> u8 {
    if flow.answered == 0 { 1 } else { ASSURED }
}

const ASSURED: u8 = 2;

/// Whether the client has sent after the worker had.
#[inline(always)]
pub const fn is_assured(flow: &Flow) -> bool {
    flow.asked == ASSURED
}

/// Whether a flow goes on.
#[inline(always)]
pub const fn is_open(flow: &Flow, now: u32, timeouts: Timeouts) -> bool {
    let timeout = if is_assured(flow) { timeouts.assured } else { timeouts.unassured };
    flow.key != 0 && age(flow, now) <= timeout
}

/// Sets that are swept at once of flows that have ended.
pub const SWEPT: u32 = 32;

/// Whether the next [`SWEPT`] sets are due, so that each is swept once in so many ticks, if so many sweeps
/// were done in all; then how many are to be passed over, since they were due more than once.
#[inline(always)]
pub const fn sweep_due(now: u32, swept: u64, sets: u32, every: u32) -> Option<u64> {
    if every == 0 {
        return None;
    }
    let due = (now as u64 * sets as u64 / every as u64).saturating_sub(swept);
    if due < SWEPT as u64 { None } else { Some(due.saturating_sub(sets as u64)) }
}

/// How much sooner than others a flow gives its place to a new one.
#[inline(always)]
pub const fn rank(flow: &Flow, now: u32, timeouts: Timeouts) -> u64 {
    if !is_open(flow, now, timeouts) {
        return u64::MAX;
    }
    let unassured = !is_assured(flow) as u64;
    unassured << 32 | age(flow, now) as u64
}

/// How long nobody has sent. Another CPU's clock may be a tick ahead.
#[inline(always)]
const fn age(flow: &Flow, now: u32) -> u32 {
    let age = now.wrapping_sub(flow.seen);
    if age > u32::MAX / 2 { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { assured: 100, unassured: 10 };

    fn flow(seen: u32, asked: u8) -> Flow {
        Flow { key: 1, seen, asked, ..Flow::default() }
    }

    proptest! {
        #[test]
        fn every_bit_of_address_port_and_seed_makes_another_client(
            words: [u32; 4], port: u16, seed: u64, bit in 0..208usize,
        ) {
            let (mut other, mut other_port, mut other_seed) = (words, port, seed);
            match bit {
                0..128 => other[bit / 32] ^= 1 << (bit % 32),
                128..144 => other_port ^= 1 << (bit - 128),
                _ => other_seed ^= 1 << (bit - 144),
            }
            let one = key(Address::of_words(words), port, seed);
            prop_assert_ne!(one, key(Address::of_words(other), other_port, other_seed));
        }

        #[test]
        fn a_set_is_in_the_table_and_begins_with_its_head(key: u64, sets in MIN_SETS..=MAX_SETS) {
            let head = head(key, sets);
            prop_assert!(head.is_multiple_of(SET) && head / SET < sets);
        }

        #[test]
        fn a_flow_that_has_ended_is_missed_least_and_an_assured_one_most(
            now: u32, one in 0..=100u32, other in 0..=10u32, ended in 101..1_000_000u32,
        ) {
            let rank = |flow: Flow| rank(&flow, now, TIMEOUTS);
            let assured = rank(flow(now.wrapping_sub(one), ASSURED));
            let unassured = rank(flow(now.wrapping_sub(other), 1));
            let gone = rank(flow(now.wrapping_sub(ended), ASSURED));
            prop_assert!(assured < unassured && unassured < gone);
            prop_assert_eq!(gone, rank(Flow::default()));
        }

        #[test]
        fn in_its_time_every_set_is_swept_however_rarely_anybody_sends(
            from: u32, sets in MIN_SETS..=MAX_SETS, every in 1..2000u32, steps in 1..40u32,
        ) {
            let (mut swept, mut done) = (0, 0);
            for step in 0..=steps {
                let now = from / 2 + every * step / steps;
                // Whoever comes sweeps until nothing is due, one part after another.
                while let Some(skipped) = sweep_due(now, swept, sets, every) {
                    swept += skipped + u64::from(SWEPT);
                    done += if step == 0 { 0 } else { SWEPT };
                }
            }
            prop_assert!(done + SWEPT > sets && done < sets + SWEPT, "{done} of {sets}");
        }

        #[test]
        fn of_two_of_a_kind_the_one_that_was_silent_for_longer_goes(
            now: u32, ages in (0..=10u32, 0..=10u32), asked in 1..=ASSURED,
        ) {
            let rank = |age| rank(&flow(now.wrapping_sub(age), asked), now, TIMEOUTS);
            prop_assert_eq!(rank(ages.0).cmp(&rank(ages.1)), ages.0.cmp(&ages.1));
        }
    }

    #[test]
    fn neighbours_are_spread_over_the_sets() {
        let clients = (0..1000u32).map(|i| Address::v4((0x7f00_0001 + i / 10).to_be_bytes()));
        let keys = clients.zip(0u16..).map(|(client, port)| key(client, port % 10, 7));
        let sets: HashSet<u32> = keys.map(|key| head(key, 1 << 16)).collect();
        assert!(sets.len() > 980, "{}", sets.len());
    }

    #[test]
    fn a_flow_is_assured_once_the_client_sends_after_the_worker() {
        let mut flow = flow(0, 0);
        for (answered, assured) in [(0, false), (0, false), (1, true), (1, true)] {
            flow.answered = answered;
            flow.asked = asked(&flow);
            assert_eq!(is_assured(&flow), assured);
        }
    }

    #[test]
    fn a_flow_that_is_not_assured_ends_sooner() {
        for (asked, timeout) in [(0, 10), (1, 10), (ASSURED, 100)] {
            assert!(is_open(&flow(0, asked), timeout, TIMEOUTS));
            assert!(!is_open(&flow(0, asked), timeout + 1, TIMEOUTS));
        }
    }

    #[test]
    fn a_clock_that_is_behind_ends_nothing() {
        assert!(is_open(&flow(5, 1), 4, TIMEOUTS));
    }
}
