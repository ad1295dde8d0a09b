//! The steps that all policies share: draw a position, look its slot up, choose it; draw again
//! while the slot is dead; at last ask every member; only then leave it to the kernel.

use aya_ebpf::{bindings::sk_action::SK_PASS, programs::SkReuseportContext};
use balancer_ebpf::{MAX_MEMBERS, control::Control, draw, record::Misses};

use crate::{client, maps};

const ENOENT: i64 = 2;
const IPPROTO_TCP: u32 = 6;

/// What a choice came to.
enum Choice {
    /// This slot, found at this position or place in the member list.
    Slot { slot: u32, at: u32 },
    /// Nobody in the table has a socket.
    Nobody,
}

/// Steers one packet. `position(attempt, len)` is the policy: a position below `len`, drawn anew
/// for each attempt. Always `SK_PASS`: to refuse is never right for an unlucky draw.
#[inline(always)]
pub fn steer(ctx: &SkReuseportContext, position: impl Fn(u32, u32) -> Option<u32>) -> u32 {
    if is_straggler(ctx) {
        return SK_PASS;
    }
    match choose(ctx, position) {
        Some(Choice::Slot { slot, at }) => client::log(ctx, at, slot),
        Some(Choice::Nobody) => count(|misses| misses.fallback += 1),
        None => count(|misses| misses.errors += 1),
    }
    SK_PASS
}

/// `None` where a map could not be read, which the kernel rules out for maps of our own making.
#[inline(always)]
fn choose(ctx: &SkReuseportContext, position: impl Fn(u32, u32) -> Option<u32>) -> Option<Choice> {
    let live = maps::live()?;
    if live.positions == 0 {
        return Some(Choice::Nobody);
    }
    for attempt in 0..draw::MAX_DRAWS {
        let position = position(attempt, live.positions)?;
        let slot = maps::slot_at(live, position)?;
        if take(ctx, slot) {
            return Some(Choice::Slot { slot, at: position });
        }
    }
    walk(ctx, live)
}

/// Asks the members one after another, from a place that the packet's hash says.
#[inline(always)]
fn walk(ctx: &SkReuseportContext, live: Control) -> Option<Choice> {
    let start = draw::scale(ctx.hash(), live.members);
    for step in 0..MAX_MEMBERS {
        if step >= live.members {
            break;
        }
        let index = draw::walk(start, step, live.members);
        let slot = maps::member_at(live, index)?;
        if take(ctx, slot) {
            return Some(Choice::Slot { slot, at: index });
        }
    }
    Some(Choice::Nobody)
}

/// Chooses a slot and counts it; false where it has no socket that will do.
#[inline(always)]
fn take(ctx: &SkReuseportContext, slot: u32) -> bool {
    match maps::select(ctx, slot) {
        0 => {
            if let Some(counters) = maps::counters(slot) {
                if ctx.migrating_sk().is_some() {
                    counters.migrated += 1;
                } else {
                    counters.selected += 1;
                }
            }
            true
        }
        error => {
            if error != -ENOENT {
                count(|misses| misses.errors += 1);
            }
            false
        }
    }
}

#[inline(always)]
fn count(what: impl FnOnce(&mut Misses)) {
    if let Some(misses) = maps::misses() {
        what(misses);
    }
}

/// A segment of a TCP connection that is gone. A migration has no packet, and is none.
#[inline(always)]
fn is_straggler(ctx: &SkReuseportContext) -> bool {
    const FLAGS: usize = 13;
    let header = ctx.data();
    if ctx.ip_protocol() != IPPROTO_TCP || header + FLAGS + 1 > ctx.data_end() {
        return false;
    }
    // SAFETY: the bound was checked just now, and is what the verifier goes by.
    let flags = unsafe { *((header + FLAGS) as *const u8) };
    !draw::opens_connection(flags)
}
