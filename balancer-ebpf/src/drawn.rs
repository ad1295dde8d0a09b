//! What a policy draws before it is known whether that slot can be chosen.

use balancer_common::{control::Control, load::MAX_LOAD};

use crate::maps;

/// What a policy draws.
pub enum Draw {
    /// This slot, at this position or place in the member list; chosen because it had so many
    /// connections, or [`MAX_LOAD`] where that does not matter.
    Slot { slot: u32, at: u32, seen: u64 },
    /// There is nobody to draw.
    Nobody,
}

/// The slot at a position of the table.
#[inline(always)]
pub fn at(live: Control, position: u32) -> Option<Draw> {
    Some(Draw::Slot { slot: maps::slot_at(live, position)?, at: position, seen: MAX_LOAD })
}
