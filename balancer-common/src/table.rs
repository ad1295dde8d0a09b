//! Where the table lies in `TABLE`: two halves, each a sequence (position → slot) followed by the
//! member list (every slot of the table once).
//!
//! The sequence is as long as the exact weights need, up to a million positions; so slots are
//! packed four to a 64-bit word, the stride of an array map whatever its value.

use crate::{MAX_MEMBERS, MAX_SLOTS, MAX_WEIGHT};

/// The most positions of a sequence: every member with the largest weight, rounded up.
pub const MAX_POSITIONS: u32 = 1 << 20;

/// Slots packed into one word of the map.
pub const SLOTS_PER_WORD: u32 = 4;

const SEQUENCE_WORDS: u32 = MAX_POSITIONS / SLOTS_PER_WORD;
const MEMBER_WORDS: u32 = MAX_MEMBERS / SLOTS_PER_WORD;
const HALF_WORDS: u32 = SEQUENCE_WORDS + MEMBER_WORDS;

/// Words of the whole map: `max_entries` of `TABLE`.
pub const WORDS: u32 = 2 * HALF_WORDS;

const _: () = assert!(MAX_MEMBERS * MAX_WEIGHT as u32 <= MAX_POSITIONS);
const _: () = assert!(MAX_SLOTS <= 1 << LANE_BITS);

const LANE_BITS: u32 = 16;

/// One of the two halves of `TABLE`: programs read the live one, userspace writes the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Half {
    /// Live in a fresh map, though empty.
    #[default]
    First = 0,
    /// The other.
    Second = 1,
}

impl Half {
    /// The half that is not this one.
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    #[inline(always)]
    const fn base(self) -> u32 {
        self as u32 * HALF_WORDS
    }

    /// The word of `TABLE` with the slot of `position`. Total: a position out of range wraps.
    #[inline(always)]
    pub const fn sequence_word(self, position: u32) -> u32 {
        self.base() + (position % MAX_POSITIONS) / SLOTS_PER_WORD
    }

    /// The word of `TABLE` with the `index`-th entry of the member list. Total: an index out of
    /// range wraps.
    #[inline(always)]
    pub const fn member_word(self, index: u32) -> u32 {
        self.base() + SEQUENCE_WORDS + (index % MAX_MEMBERS) / SLOTS_PER_WORD
    }
}

/// The slot that stands in `word` for a position or member index.
#[inline(always)]
pub const fn unpack_slot(word: u64, index: u32) -> u32 {
    ((word >> ((index % SLOTS_PER_WORD) * LANE_BITS)) & 0xffff) as u32
}

/// Packs up to four slots, in order of their positions.
pub fn pack_slots(slots: &[u32]) -> u64 {
    slots
        .iter()
        .take(SLOTS_PER_WORD as usize)
        .rev()
        .fold(0, |word, slot| (word << LANE_BITS) | u64::from(slot & 0xffff))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_slot_is_read_back_where_it_was_packed(slots in prop::collection::vec(0..MAX_SLOTS, 1..=4)) {
            let word = pack_slots(&slots);
            for (index, slot) in (0..).zip(&slots) {
                prop_assert_eq!(unpack_slot(word, index), *slot);
                prop_assert_eq!(unpack_slot(word, index + 4 * 7), *slot);
            }
        }

        #[test]
        fn every_position_lies_inside_the_map(position: u32, index: u32) {
            for half in [Half::First, Half::Second] {
                prop_assert!(half.sequence_word(position) < WORDS);
                prop_assert!(half.member_word(index) < WORDS);
            }
        }
    }

    #[test]
    fn halves_and_lists_do_not_overlap() {
        let last = MAX_POSITIONS - 1;
        assert_eq!(Half::First.sequence_word(0), 0);
        assert!(Half::First.sequence_word(last) < Half::First.member_word(0));
        assert!(Half::First.member_word(MAX_MEMBERS - 1) < Half::Second.sequence_word(0));
        assert!(Half::Second.sequence_word(last) < Half::Second.member_word(0));
        assert_eq!(Half::Second.member_word(MAX_MEMBERS - 1), WORDS - 1);
    }
}
