//! What a connection owes: pure steps of one word, which is kept with the connection.
//!
//! Each step is one atomic operation on the word, and adds to its member's count how much the word weighs
//! more or less than before it. So whatever happens at the same time on other CPUs, and whichever events
//! the kernel does not tell of, a member's count is the sum of what its connections' words weigh now.

use crate::load::lower;

/// Data came that the worker has not read.
pub const UNREAD: u64 = 1;
/// The worker has read, and not written since.
pub const OWED: u64 = 1 << 1;
/// It is established, and nothing has come or gone on it.
pub const FRESH: u64 = 1 << 2;
/// Its worker has closed it: it weighs nothing any more, whatever is seen later.
pub const CLOSED: u64 = 1 << 3;
/// It migrated, and is counted where it went.
pub const MOVED: u64 = 1 << 4;

/// The era in which the connection was established, as [`next_era`] numbers them; 0 before the tracker.
/// It weighs nothing.
pub const ERA: u64 = 0xFFFF_FF00;
const ONE_ERA: u64 = 1 << 8;
/// In a member's era, beside its number: answers on its own connections are counted apart.
const APART: u64 = 1;

/// One connection that owes an answer, in a member's count.
pub const OWING: u64 = 1;
/// One fresh connection, in a member's count.
pub const NEW: u64 = 1 << 32;

/// A word that was last written under another epoch, so by a tracker that is gone, says nothing but
/// whether the connection is closed.
#[inline(always)]
pub const fn current(word: u64, epoch: u32) -> u64 {
    if lower(word >> 32) == epoch { word } else { (epoch as u64) << 32 | word & CLOSED }
}

/// What a word of the current epoch adds to its member's count.
#[inline(always)]
pub const fn weight(word: u64) -> u64 {
    if word & CLOSED != 0 {
        return 0;
    }
    let owing = if word & (UNREAD | OWED) != 0 { OWING } else { 0 };
    let fresh = if word & FRESH != 0 { NEW } else { 0 };
    owing + fresh
}

/// The era that follows a member's. An experiment begins one with each block, and ends with one in which
/// nothing is counted `apart`: so no connection is of an era that comes after it was established.
pub const fn next_era(era: u64, apart: bool) -> u64 {
    let next = (era & ERA).wrapping_add(ONE_ERA) & ERA;
    // 0 is that of no era.
    let next = if next == 0 { ONE_ERA } else { next };
    if apart { next | APART } else { next }
}

/// Whether answers on the connection with this word are counted apart, since it is of its member's era.
#[inline(always)]
pub const fn is_apart(word: u64, era: u64) -> bool {
    word & ERA | APART == era
}

/// What a step adds to its member's count.
#[inline(always)]
pub const fn difference(before: u64, after: u64) -> u64 {
    weight(after).wrapping_sub(weight(before))
}

/// Connections that owe an answer, out of a member's count; none if it is below zero for a moment, as
/// when another CPU is between a step and its addition.
#[inline(always)]
pub const fn owing(count: u64) -> u32 {
    let owing = lower(count);
    if owing > u32::MAX / 2 { 0 } else { owing }
}

/// Fresh connections, out of a member's count.
#[inline(always)]
pub const fn new(count: u64) -> u32 {
    // A lower half below zero has borrowed one.
    let borrowed = lower(count) > u32::MAX / 2;
    let new = lower(count >> 32).wrapping_add(borrowed as u32);
    if new > u32::MAX / 2 { 0 } else { new }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: u32 = 7;

    /// What may happen to one of two connections.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Set(u64),
        Clear(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
        let bits = prop::sample::select(vec![UNREAD, OWED, FRESH, CLOSED, UNREAD | OWED]);
        let step = (bits, any::<bool>()).prop_map(|(bits, set)| match set {
            true => Step::Set(bits),
            false => Step::Clear(bits & !CLOSED),
        });
        prop::collection::vec((0..2usize, step), 0..60)
    }

    proptest! {
        #[test]
        fn whatever_is_seen_a_count_is_what_its_connections_owe(
            steps in steps(), before in any::<[u32; 2]>(),
        ) {
            let mut words = before.map(u64::from);
            let mut count = 0u64;
            for (which, step) in steps {
                let word = current(words[which], EPOCH);
                let after = match step {
                    Step::Set(bits) => word | bits,
                    Step::Clear(bits) => word & !bits,
                };
                count = count.wrapping_add(difference(word, after));
                words[which] = after;
            }
            let open = words.iter().map(|&word| current(word, EPOCH)).filter(|w| w & CLOSED == 0);
            let open: Vec<u64> = open.collect();
            let having = |bits| u32::try_from(open.iter().filter(|&w| w & bits != 0).count()).unwrap();
            prop_assert_eq!((owing(count), new(count)), (having(UNREAD | OWED), having(FRESH)));
        }

        #[test]
        fn both_halves_of_a_count_are_read_back(owing_now in 0..1u32 << 30, new_now in 0..1u32 << 30) {
            let count = u64::from(owing_now) * OWING + u64::from(new_now) * NEW;
            prop_assert_eq!((owing(count), new(count)), (owing_now, new_now));
        }
    }

    proptest! {
        #[test]
        fn only_connections_of_this_era_are_apart_and_only_in_an_experiment(
            eras in prop::collection::vec(any::<bool>(), 1..50), bits in 0..32u64, first: u64,
        ) {
            let mut era = next_era(first, true);
            let mut earlier = vec![bits];
            for apart in eras {
                let own = era & ERA | bits;
                prop_assert_eq!(weight(own), weight(bits));
                prop_assert!(earlier.iter().all(|&word| !is_apart(word, era)));
                prop_assert_eq!(is_apart(own, era), era & 1 == 1);
                earlier.push(own);
                era = next_era(era, apart);
            }
        }
    }

    #[test]
    fn the_era_after_the_last_is_not_that_of_no_era() {
        assert_eq!(next_era(ERA, true), next_era(0, true));
        assert!(!is_apart(0, next_era(ERA, true)));
    }

    #[test]
    fn what_another_tracker_left_says_nothing_but_that_it_is_closed() {
        let old = 3 << 32 | UNREAD | CLOSED;
        assert_eq!(current(old, EPOCH), 7 << 32 | CLOSED);
        assert_eq!(current(old, 3), old);
    }

    #[test]
    fn a_count_that_is_below_zero_for_a_moment_is_none() {
        let count = NEW.wrapping_mul(5).wrapping_sub(OWING);
        assert_eq!((owing(count), new(count)), (0, 5));
        assert_eq!((owing(NEW.wrapping_neg()), new(NEW.wrapping_neg())), (0, 0));
    }
}
