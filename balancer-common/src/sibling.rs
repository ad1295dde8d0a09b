//! What else a worker has to do: its members in the other groups of its service. They are a ring: the record of
//! each names that in the next group.

use crate::{MAX_GROUPS, MAX_SLOTS, load};

/// As long as the last choice of a sibling is less jiffies old, those that are on their way to it count: a
/// second at least. Those that never come are set right by choices of its own group, which may have none.
const UNDER_WAY: u32 = 1024;

const _: () = assert!(MAX_SLOTS <= 1 << 16 && MAX_GROUPS < 1 << 16);

/// One of them: its group by its index among those of the host, and its slot; never 0.
#[inline(always)]
pub const fn pack(group: u32, slot: u32) -> u64 {
    ((group + 1) << 16 | slot) as u64
}

/// The inverse of [`pack`]; `None` of 0, which is nobody.
#[inline(always)]
pub const fn unpack(word: u64) -> Option<(u32, u32)> {
    let word = load::lower(word);
    match word >> 16 {
        0 => None,
        group => Some((group - 1, word & 0xffff)),
    }
}

/// The count of a sibling's connections, without those on their way if they are none: by when it was last chosen,
/// 0 for never.
#[inline(always)]
pub const fn believable(count: u64, chosen: u32, now: u32) -> u64 {
    let is_recent = chosen != 0 && now.wrapping_sub(chosen) < UNDER_WAY;
    if is_recent { count } else { load::open(count) as u64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_found_and_is_never_nobody(group in 0..MAX_GROUPS, slot in 0..MAX_SLOTS) {
            prop_assert_ne!(pack(group, slot), 0);
            prop_assert_eq!(unpack(pack(group, slot)), Some((group, slot)));
        }
    }

    #[test]
    fn nothing_is_nobody() {
        assert_eq!(unpack(0), None);
    }

    #[test]
    fn those_on_their_way_count_only_while_choices_are_recent() {
        let count = 3 * load::OPEN + 2 * load::PENDING;
        assert_eq!(believable(count, 100, 100), count);
        assert_eq!(believable(count, u32::MAX, 1000), count);
        assert_eq!(believable(count, 100, 1124), 3 * load::OPEN);
        assert_eq!(believable(count, 0, 100), 3 * load::OPEN);
    }
}
