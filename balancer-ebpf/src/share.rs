//! A bound on what one member gets (`--max-share`): a worker that answers everything at once, because
//! all it says is that it failed, has the least to do all the time.

use balancer_common::{control::Control, draw};

use crate::{maps, settings};

/// How many others are asked in place of a member that has had its share.
const OTHERS: u32 = 8;

/// The slot itself, or, where it has had its share of this window of choices, one of those whose turn it
/// is. If they have had theirs too, the slot itself.
#[inline(always)]
pub fn within(live: Control, slot: u32, turn: u64) -> u32 {
    if settings::max_share() == 0 { slot } else { bal_within_share(live.pack(), slot, turn) }
}

/// A function of its own for the verifier, which checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_within_share(control: u64, slot: u32, turn: u64) -> u32 {
    let live = Control::unpack(control);
    let start = draw::wrap(turn, live.members);
    let mut chosen = slot;
    let mut other = slot;
    for step in 0..OTHERS {
        let Some(record) = maps::load(other) else { break };
        let able = record.weight != 0 && record.unable == 0;
        if able && !draw::is_beyond_share(record.window, turn, settings::max_share()) {
            chosen = other;
            break;
        }
        if step >= live.members {
            break;
        }
        let Some(next) = maps::member_at(live, draw::from_start(start, step, live.members)) else {
            break;
        };
        other = next;
    }
    if let Some(record) = maps::load(chosen) {
        // Two CPUs may do so at once: then one choice of the window is not noted.
        record.window = draw::chosen_in_window(record.window, turn);
    }
    chosen
}

/// The turn of a policy that counts none itself.
#[inline(always)]
pub fn turn(counter: u32) -> Option<u64> {
    if settings::max_share() == 0 { Some(0) } else { maps::tick(counter) }
}
