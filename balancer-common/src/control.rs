//! The control word: which half of the table is live, and how long its two lists are. Programs
//! read it once a choice, userspace switches tables by storing it once.

use crate::table::Half;

/// The unpacked control word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The half that programs read.
    pub half: Half,
    /// Length of its sequence, in positions. 0 means that nobody is eligible.
    pub positions: u32,
    /// Length of its member list, in slots.
    pub members: u32,
}

const MEMBERS_SHIFT: u32 = 32;
const MEMBERS_MASK: u64 = 0xffff;
const HALF_SHIFT: u32 = 48;

impl Control {
    /// Packs into the word stored in `CONTROL`: positions in bits 0–31, members in 32–47, the half
    /// in bit 48.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.positions as u64)
            | ((self.members as u64 & MEMBERS_MASK) << MEMBERS_SHIFT)
            | ((self.half as u64) << HALF_SHIFT)
    }

    /// Unpacks the word stored in `CONTROL`.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            half: if (word >> HALF_SHIFT) & 1 == 0 { Half::First } else { Half::Second },
            positions: (word & 0xffff_ffff) as u32,
            members: ((word >> MEMBERS_SHIFT) & MEMBERS_MASK) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{MAX_MEMBERS, table::MAX_POSITIONS};

    proptest! {
        #[test]
        fn a_control_word_survives_packing(
            second: bool,
            positions in 0..=MAX_POSITIONS,
            members in 0..=MAX_MEMBERS,
        ) {
            let half = if second { Half::Second } else { Half::First };
            let control = Control { half, positions, members };
            prop_assert_eq!(Control::unpack(control.pack()), control);
        }
    }

    #[test]
    fn a_fresh_map_reads_as_an_empty_table() {
        assert_eq!(Control::unpack(0), Control { half: Half::First, positions: 0, members: 0 });
    }
}
