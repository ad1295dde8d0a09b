//! The steps that all policies share: draw, look whether the slot may be chosen, choose it; draw
//! again while it is dead or stalled; at last ask every member; only then leave it to the kernel.

use aya_ebpf::{bindings::sk_action::SK_PASS, programs::SkReuseportContext};
use balancer_ebpf::{MAX_MEMBERS, control::Control, draw, record::Misses};

use crate::{client, lightest, maps, moved, queue, segment::Segment, settings};

const ENOENT: i64 = 2;

/// Members whose queues are looked at in each choice, beside the one chosen: all of a small group,
/// some others each time of a large one.
const LOOKS: u32 = 8;

/// What a policy draws.
pub enum Draw {
    /// This slot, at this position or place in the member list.
    Slot { slot: u32, at: u32 },
    /// It is to be asked again.
    Again,
    /// There is nobody to draw.
    Nobody,
}

/// The slot at a position of the table.
#[inline(always)]
pub fn at(live: Control, position: u32) -> Option<Draw> {
    Some(Draw::Slot { slot: maps::slot_at(live, position)?, at: position })
}

/// Steers one packet. `draw(live, attempt, now)` is the policy. Always `SK_PASS`: to refuse is never right
/// for an unlucky draw.
#[inline(always)]
pub fn steer(
    ctx: &SkReuseportContext,
    segment: Segment,
    draw: impl Fn(Control, u32, u32) -> Option<Draw>,
) -> u32 {
    if segment.is_straggler() {
        return SK_PASS;
    }
    match choose(ctx, draw) {
        Some(true) => {}
        Some(false) => count(|misses| misses.fallback += 1),
        None => count(|misses| misses.errors += 1),
    }
    SK_PASS
}

/// Whether a slot was chosen. `None` where a map could not be read, which the kernel rules out for
/// maps of our own making.
#[inline(always)]
fn choose(
    ctx: &SkReuseportContext,
    draw: impl Fn(Control, u32, u32) -> Option<Draw>,
) -> Option<bool> {
    let live = maps::live()?;
    if live.positions == 0 {
        return Some(false);
    }
    let now = look_around(ctx, live)?;
    for attempt in 0..draw::MAX_DRAWS {
        match draw(live, attempt, now)? {
            Draw::Slot { slot, at } => {
                if take(ctx, slot, at, now) {
                    return Some(true);
                }
            }
            Draw::Again => {}
            Draw::Nobody => break,
        }
    }
    walk(ctx, live.pack(), now)
}

/// Asks the members one after another, from a place that the packet's hash says; at last, where all
/// that live are stalled, the one with the shortest queue.
#[inline(never)]
fn walk(ctx: &SkReuseportContext, control: u64, now: u32) -> Option<bool> {
    let live = Control::unpack(control);
    let start = draw::scale(ctx.hash(), live.members);
    for step in 0..MAX_MEMBERS {
        if step >= live.members {
            break;
        }
        let index = draw::walk(start, step, live.members);
        let slot = maps::member_at(live, index)?;
        // Selected even while it stalls, for want of a second way: who is selected last is chosen.
        let stalled = i64::from(queue::bal_stalled(slot, now));
        if stalled | maps::select(ctx, slot) == 0 {
            taken(ctx, slot, index, now);
            return Some(true);
        }
    }
    if settings::stall_ticks().is_none() {
        return Some(false);
    }
    let Some(slot) = lightest::shortest_queue(live, start) else { return Some(false) };
    let chosen = maps::select(ctx, slot) == 0;
    if chosen {
        taken(ctx, slot, start, now);
    }
    Some(chosen)
}

/// Looks at some members' queues, and what time it is. Nothing where nobody is to be avoided.
#[inline(always)]
fn look_around(ctx: &SkReuseportContext, live: Control) -> Option<u32> {
    if settings::stall_ticks().is_none() {
        return Some(0);
    }
    let now = queue::now();
    let start = draw::scale(ctx.hash(), live.members);
    for step in 0..LOOKS {
        if step >= live.members {
            break;
        }
        let slot = maps::member_at(live, draw::walk(start, step, live.members))?;
        queue::bal_stalled(slot, now);
    }
    Some(now)
}

/// Chooses a slot and counts it; false where it is stalled, or has no socket that will do.
#[inline(never)]
fn take(ctx: &SkReuseportContext, slot: u32, at: u32, now: u32) -> bool {
    if queue::bal_stalled(slot, now) != 0 {
        return false;
    }
    let error = maps::select(ctx, slot);
    if error == 0 {
        taken(ctx, slot, at, now);
        return true;
    }
    bal_refused(slot, u32::from(error == -ENOENT));
    false
}

/// Notes that the kernel refused a slot: because it is empty, or for a reason that is a defect.
/// Returns nothing of use; a function that the verifier checks once, as those of [`lightest`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_refused(slot: u32, empty: u32) -> u32 {
    // Out of the race for the least load, until userspace seats somebody there.
    if let Some(load) = maps::load(slot) {
        load.weight = 0;
    }
    if empty == 0 {
        count(|misses| misses.errors += 1);
    }
    0
}

#[inline(never)]
fn taken(ctx: &SkReuseportContext, slot: u32, at: u32, now: u32) {
    queue::sent_to(slot, now);
    if let Some(counters) = maps::counters(slot) {
        if ctx.migrating_sk().is_some() {
            counters.migrated += 1;
            moved::count(ctx, slot);
        } else {
            counters.selected += 1;
        }
    }
    client::log(ctx, at, slot);
}

#[inline(always)]
fn count(what: impl FnOnce(&mut Misses)) {
    if let Some(misses) = maps::misses() {
        what(misses);
    }
}
