//! Whether a queue stands still: somebody waits, and for a while nobody was taken.
//!
//! A worker that is merely busy has a long queue that moves. So what is noted is not how long the
//! queue is but since when it has not moved, in one word a slot: what was seen in the upper half, and
//! since when in the lower, in ticks. For TCP, what is seen is how many connections were accepted so
//! far: those established less those that wait. It takes no look at the queue's head, and tells a
//! worker that accepts from one that does not however fast others come.

/// A tick is 2¹⁶ ns; 32 bits of them go round in 78 hours.
const TICK_SHIFT: u32 = 16;

/// A time or duration in ticks.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "ticks go round, see `TICK_SHIFT`")]
pub const fn ticks(nanoseconds: u64) -> u32 {
    (nanoseconds >> TICK_SHIFT) as u32
}

/// The new word of a TCP listener in whose queue nobody waits: as many were accepted as were
/// established. Since when does not matter, so no clock is needed.
#[inline(always)]
pub const fn see_empty(word: u64, established: u32) -> u64 {
    note(established, since(word))
}

/// The new word of a TCP listener in whose queue somebody waits.
#[inline(always)]
pub const fn see_waiting(word: u64, accepted: u32, now: u32) -> u64 {
    if seen(word) == accepted { word } else { note(accepted, now) }
}

/// The most that can wait at a TCP listener: as many were established since what was accepted was last
/// seen. So most choices need not look.
#[inline(always)]
pub const fn at_most(word: u64, established: u32) -> u32 {
    established.wrapping_sub(seen(word))
}

/// Whether a queue was looked at so lately that a new look would tell little of a stall: within 1/64 of the
/// time. By as much it may be seen late; or by a whole time, if connections were accepted after that look
/// and none was chosen for since.
#[inline(always)]
pub const fn is_recent(looked: u32, now: u32, threshold: u32) -> bool {
    now.wrapping_sub(looked) < late(threshold)
}

/// How much later a stall may be seen. From then on every choice sees it.
#[inline(always)]
pub const fn late(threshold: u32) -> u32 {
    threshold.div_ceil(64)
}

/// Whether one that is established now, after so many others, is the first to wait: all before it were
/// accepted when that was last seen. Then [`first_waits`] is the new word.
#[inline(always)]
pub const fn is_first(word: u64, established_before: u32) -> bool {
    seen(word) == established_before
}

/// The new word when the first connection begins to wait.
#[inline(always)]
pub const fn first_waits(word: u64, now: u32) -> u64 {
    note(seen(word), now)
}

/// Whether a TCP listener, in whose queue somebody waits now, has stood still for so many ticks.
#[inline(always)]
pub const fn stands_still(word: u64, accepted: u32, now: u32, threshold: u32) -> bool {
    seen(word) == accepted && now.wrapping_sub(since(word)) >= threshold
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

/// Whether a UDP socket's queue has stood still for so many ticks.
#[inline(always)]
pub const fn is_stalled(word: u64, now: u32, threshold: u32) -> bool {
    word != 0 && now.wrapping_sub(since(word)) >= threshold
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

    const LATE: u32 = late(THRESHOLD);

    /// A listener as the programs see it.
    #[derive(Default)]
    struct Listener {
        word: u64,
        established: u32,
        waiting: u32,
        looked: u32,
        stalled: bool,
    }

    impl Listener {
        fn connection(&mut self, now: u32) {
            if is_first(self.word, self.established) {
                self.word = first_waits(self.word, now);
            }
            self.established = self.established.wrapping_add(1);
            self.waiting += 1;
        }

        /// What a choice does: looks if need be, and says whether it is to be passed over.
        fn is_stalled(&mut self, now: u32) -> bool {
            let most = at_most(self.word, self.established);
            assert!(self.waiting <= most, "{} wait, and {most} are the most", self.waiting);
            if !self.stalled && (most == 0 || is_recent(self.looked, now, THRESHOLD)) {
                return false;
            }
            self.looked = now;
            self.stalled = self.look(now);
            self.stalled
        }

        fn look(&mut self, now: u32) -> bool {
            if self.waiting == 0 {
                self.word = see_empty(self.word, self.established);
                return false;
            }
            let accepted = self.established.wrapping_sub(self.waiting);
            let stalled = stands_still(self.word, accepted, now, THRESHOLD);
            self.word = see_waiting(self.word, accepted, now);
            stalled
        }
    }

    proptest! {
        #[test]
        fn one_that_accepts_nobody_is_stalled_from_when_the_first_began_to_wait(
            before in 0..5u32, idle in 0..1000u32, others in prop::collection::vec(0..20u32, 0..10),
        ) {
            let mut listener = Listener::default();
            for now in (0..before).map(|turn| turn * LATE) {
                listener.is_stalled(now);
                listener.connection(now);
                listener.waiting = 0;
            }
            let start = before * LATE + idle;
            prop_assert!(!listener.is_stalled(start));
            listener.connection(start);
            let mut now = start;
            for pause in others {
                now = (now + pause).min(start + THRESHOLD - 1);
                prop_assert!(!listener.is_stalled(now));
                listener.connection(now);
            }
            prop_assert!(!listener.is_stalled(start + THRESHOLD - 1));
            prop_assert!(listener.is_stalled(start + THRESHOLD + LATE));
        }

        #[test]
        fn one_that_accepts_is_never_stalled_however_long_its_queue(
            each in 1..THRESHOLD, every in 1..10u32, end in 0..2000u32,
        ) {
            let mut listener = Listener::default();
            for now in 1..=end {
                if now % every == 0 {
                    prop_assert!(!listener.is_stalled(now));
                    listener.connection(now);
                }
                if now % each == 0 {
                    listener.waiting = listener.waiting.saturating_sub(1);
                }
            }
        }

        #[test]
        fn one_that_accepts_again_is_not_stalled_any_more(waits in 1..5u32) {
            let mut listener = Listener::default();
            (0..waits).for_each(|now| listener.connection(now));
            prop_assert!(listener.is_stalled(500));
            listener.waiting -= 1;
            prop_assert!(!listener.is_stalled(501));
            prop_assert_eq!(listener.waiting > 0, listener.is_stalled(501 + THRESHOLD));
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

    #[test]
    fn a_queue_that_ran_empty_has_moved() {
        let word = see_queue(see_queue(see_queue(0, 3, 0), 0, 120), 3, 130);
        assert!(!is_stalled(word, 150, THRESHOLD) && is_stalled(word, 230, THRESHOLD));
        assert!(!is_stalled(0, u32::MAX, 1));
    }
}
