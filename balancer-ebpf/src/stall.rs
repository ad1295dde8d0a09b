//! Whether a queue stands still: somebody waits, and for a while nobody was taken.
//!
//! A worker that is merely busy has a long queue that moves. So what is noted is not how long the
//! queue is but since when it has not moved, in one word a slot: what was seen in the upper half, and
//! since when in the lower, in ticks. A word of 0 is a queue that was empty.

use crate::load::if_negative;

/// A tick is 2¹⁶ ns; 32 bits of them go round in 78 hours.
const TICK_SHIFT: u32 = 16;

/// A time or duration in ticks.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "ticks go round, see `TICK_SHIFT`")]
pub const fn ticks(nanoseconds: u64) -> u32 {
    (nanoseconds >> TICK_SHIFT) as u32
}

/// The new word of a TCP listener. `head` tells the connection that has waited longest from all
/// others; `None` where nobody waits.
#[inline(always)]
pub const fn see_head(word: u64, head: Option<u32>, now: u32) -> u64 {
    match head {
        None => 0,
        // Never 0, or it would read as empty.
        Some(head) if seen(word) == head | 1 => word,
        Some(head) => note(head | 1, now),
    }
}

/// The new word of a UDP socket in whose queue so many datagrams wait. It has moved where they are
/// fewer than those seen before and those sent there since ([`chosen`]).
#[inline(always)]
pub const fn see_queue(word: u64, waiting: u32, now: u32) -> u64 {
    if waiting == 0 {
        0
    } else if word != 0 && seen(word) <= waiting {
        note(waiting, since(word))
    } else {
        note(waiting, now)
    }
}

/// The new word of a UDP socket that another datagram is sent to and has room for.
#[inline(always)]
pub const fn chosen(word: u64, now: u32) -> u64 {
    if word == 0 { note(1, now) } else { note(seen(word).wrapping_add(1), since(word)) }
}

/// Whether a queue has stood still for so many ticks.
#[inline(always)]
pub const fn is_stalled(word: u64, now: u32, threshold: u32) -> bool {
    word != 0 && now.wrapping_sub(since(word)) >= threshold
}

/// As [`is_stalled`], as all ones or 0 and without a branch.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, reason = "only the sign is looked at")]
pub fn if_stalled(word: u64, now: u32, threshold: u32) -> u64 {
    let short = if_negative(now.wrapping_sub(since(word)) as i64 - threshold as i64);
    let noted = if_negative((word | word.wrapping_neg()) as i64);
    noted & !short
}

#[inline(always)]
const fn note(seen: u32, since: u32) -> u64 {
    ((seen as u64) << 32) | since as u64
}

#[inline(always)]
const fn seen(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline(always)]
const fn since(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THRESHOLD: u32 = 100;

    /// Looks at every tick up to `end`, with the head that `head` tells.
    fn watch(end: u32, head: impl Fn(u32) -> Option<u32>) -> u64 {
        (0..=end).fold(0, |word, now| see_head(word, head(now), now))
    }

    proptest! {
        #[test]
        fn a_queue_whose_head_stays_is_stalled_when_the_time_is_up(head: u32, start: u32) {
            let word = see_head(0, Some(head), start);
            let again = see_head(word, Some(head), start.wrapping_add(THRESHOLD - 1));
            prop_assert_eq!(again, word);
            prop_assert!(!is_stalled(again, start.wrapping_add(THRESHOLD - 1), THRESHOLD));
            prop_assert!(is_stalled(again, start.wrapping_add(THRESHOLD), THRESHOLD));
        }

        #[test]
        fn a_busy_worker_is_never_stalled_however_long_its_queue(
            each in 1..THRESHOLD, end in 0..2000u32,
        ) {
            // Heads differ in more than the last bit, as sequence numbers do.
            let word = watch(end, |now| Some((now / each) << 1));
            prop_assert!(!is_stalled(word, end, THRESHOLD));
        }

        #[test]
        fn a_udp_worker_that_takes_as_many_as_come_is_never_stalled(waiting in 1..50u32) {
            let mut word = 0;
            for now in 1..1000 {
                word = chosen(see_queue(word, waiting, now), now);
            }
            prop_assert!(!is_stalled(word, 1000, THRESHOLD));
        }

        #[test]
        fn a_udp_worker_that_takes_none_is_stalled_though_more_and_more_come(every in 1..10u32) {
            let (mut word, mut waiting) = (0, 0);
            for now in 1..1000 {
                word = see_queue(word, waiting, now);
                if now % every == 0 {
                    word = chosen(word, now);
                    waiting += 1;
                }
            }
            prop_assert!(is_stalled(word, 1000, THRESHOLD));
        }

        #[test]
        fn a_udp_worker_with_a_full_buffer_is_stalled(waiting in 1..100u32) {
            let word = (1..1000).fold(0, |word, now| see_queue(word, waiting, now));
            prop_assert!(is_stalled(word, 1000, THRESHOLD));
        }
    }

    proptest! {
        #[test]
        fn the_mask_says_the_same(word: u64, now: u32, threshold in 1..u32::MAX, empty: bool) {
            let word = if empty { 0 } else { word };
            let mask = if is_stalled(word, now, threshold) { u64::MAX } else { 0 };
            prop_assert_eq!(if_stalled(word, now, threshold), mask);
        }
    }

    #[test]
    fn a_queue_that_ran_empty_has_moved() {
        let word = watch(150, |now| (now != 120).then_some(7));
        assert!(!is_stalled(word, 150, THRESHOLD) && is_stalled(word, 230, THRESHOLD));
        assert!(!is_stalled(0, u32::MAX, 1));
    }
}
