//! The steps that all policies share: draw, look whether the slot is able, choose it; draw again while
//! it is dead, full or stalled; at last ask every member; only then leave it to the kernel.

use aya_ebpf::{bindings::sk_action::SK_PASS, programs::SkReuseportContext};
use balancer_common::{
    MAX_MEMBERS,
    control::Control,
    draw::{self, PacketKind},
    load::{self, MAX_LOAD, Source},
    record::Misses,
};

use crate::{
    client,
    drawn::Draw,
    early::{self, jiffies},
    flow, least_loaded, maps, migrate,
    packet::Packet,
    queue, service, settings,
};

const ENOENT: i64 = 2;

/// Steers one packet. `draw(live, attempt)` is the policy. Always `SK_PASS`: to refuse is never right
/// for an unlucky draw.
#[inline(always)]
pub fn steer(
    ctx: &SkReuseportContext,
    packet: Packet,
    draw: impl Fn(Control, u32) -> Option<Draw>,
) -> u32 {
    match packet.kind() {
        PacketKind::Stray => return SK_PASS,
        PacketKind::Ack if !settings::looks() => return unseen_ack(ctx),
        // Whichever listener the kernel picks for it sends a reset.
        PacketKind::Ack if !queue::sends_cookies(ctx) => return SK_PASS,
        _ => {}
    }
    if let Some(slot) = early::recall(ctx, packet)
        && maps::select(ctx, slot) == 0
    {
        return SK_PASS;
    }
    if settings::flow_sets() != 0 && goes_on(ctx) {
        return SK_PASS;
    }
    match choose(ctx, packet, draw).unwrap_or(Outcome::Error) {
        Outcome::Chosen => {}
        Outcome::Fallback => count(|misses| misses.fallback += 1),
        Outcome::Error => count(|misses| misses.errors += 1),
    }
    SK_PASS
}

/// An ACK of which cannot be told whether it brings a SYN cookie back. It finds an eligible slot should
/// it do so; nothing is drawn or counted, since most are strays.
#[inline(never)]
fn unseen_ack(ctx: &SkReuseportContext) -> u32 {
    if let Some(live) = maps::live()
        && live.positions > 0
        && let Some(slot) = maps::slot_at(live, draw::scale(ctx.hash(), live.positions))
    {
        let _ = maps::select(ctx, slot);
    }
    SK_PASS
}

/// Whether a datagram goes where its flow is. A function of its own, for the object's size.
#[inline(never)]
fn goes_on(ctx: &SkReuseportContext) -> bool {
    let key = flow::key(ctx);
    let Some(slot) = flow::known(key) else { return false };
    if maps::select(ctx, slot) != 0 {
        flow::leave(key);
        return false;
    }
    if let Some(counters) = maps::counters(slot) {
        counters.selected += 1;
    }
    true
}

/// What came of a packet.
enum Outcome {
    /// A slot was chosen.
    Chosen,
    /// It is left to the kernel.
    Fallback,
    /// It is left to the kernel, because a map could not be read.
    Error,
}

/// `None` if a map could not be read, which the kernel rules out for maps of our own making.
#[inline(always)]
fn choose(
    ctx: &SkReuseportContext,
    packet: Packet,
    draw: impl Fn(Control, u32) -> Option<Draw>,
) -> Option<Outcome> {
    let live = maps::live()?;
    if live.positions == 0 {
        return Some(Outcome::Fallback);
    }
    for attempt in 0..draw::MAX_DRAWS {
        match draw(live, attempt)? {
            Draw::Slot { slot, at, seen } => {
                if take(ctx, packet.word(), slot, at, seen) {
                    return Some(Outcome::Chosen);
                }
            }
            Draw::Nobody => break,
        }
    }
    scan(ctx, packet.word(), live.pack())
}

/// The fallback scan: asks the members one after another, from a place that the packet's hash says; at
/// last, if none that lives is able, the one with the shortest queue.
///
/// What is done for the member that was found is outside the loop: within it, the verifier would walk it
/// once for every member there may be.
#[inline(never)]
fn scan(ctx: &SkReuseportContext, packet: u64, control: u64) -> Option<Outcome> {
    let live = Control::unpack(control);
    let start = draw::scale(ctx.hash(), live.members);
    let mut found = NO_SLOT;
    let mut at = start;
    for step in 0..MAX_MEMBERS {
        if step >= live.members {
            break;
        }
        at = draw::from_start(start, step, live.members);
        let slot = maps::member_at(live, at)?;
        // Selected even while it is unable, for want of a second way: the last one selected is chosen.
        let unable = i64::from(queue::bal_check_queue(slot));
        if unable | maps::select(ctx, slot) == 0 {
            found = slot;
            break;
        }
    }
    let able = found != NO_SLOT;
    if !able {
        if !settings::looks() {
            return Some(Outcome::Fallback);
        }
        let shortest = least_loaded::shortest_queue(live, start);
        let Some(slot) = shortest else { return Some(Outcome::Fallback) };
        if maps::select(ctx, slot) != 0 {
            return Some(Outcome::Fallback);
        }
        found = slot;
    }
    bal_reserve(found, MAX_LOAD, reservation(packet));
    if able {
        queue::sent_to(found);
    }
    taken(ctx, packet, found, at);
    Some(Outcome::Chosen)
}

/// No member is in this slot.
const NO_SLOT: u32 = u32::MAX;

/// Chooses a slot and counts it; false where it is not able, was chosen by another CPU meanwhile, or has
/// no socket that will do.
#[inline(never)]
fn take(ctx: &SkReuseportContext, packet: u64, slot: u32, at: u32, seen: u64) -> bool {
    if queue::bal_check_queue(slot) != 0 {
        return false;
    }
    let reserved = bal_reserve(slot, seen, reservation(packet));
    if reserved == OVERTAKEN {
        return false;
    }
    let error = maps::select(ctx, slot);
    if error == 0 {
        queue::sent_to(slot);
        taken(ctx, packet, slot, at);
        return true;
    }
    bal_refused(slot, u32::from(error == -ENOENT), reserved);
    false
}

/// For whom a place may be reserved, as a number for a function of its own.
#[inline(always)]
fn reservation(packet: u64) -> u32 {
    if settings::is_counted() { Packet::from_word(packet).kind() as u32 } else { 0 }
}

const RESERVED: u32 = 1;
const OVERTAKEN: u32 = 2;

/// Reserves a place for a new connection on a slot: [`RESERVED`], 0 if none is needed, or [`OVERTAKEN`]
/// where the slot had not the load any more that it was chosen for, which is less than [`MAX_LOAD`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_reserve(slot: u32, seen: u64, kind: u32) -> u32 {
    let (Some(record), Some(cookies)) = (maps::load(slot), maps::cursor(maps::COOKIES)) else {
        return 0;
    };
    let now = jiffies();
    // With SYN cookies the kernel forgets who sent a SYN, and asks again when the cookie is back: only
    // that choice comes to anything. What migrates is counted where it is open, or by the kernel itself
    // while it is half open.
    if kind == PacketKind::Ack as u32 {
        *cookies = now;
    } else if kind != PacketKind::Syn as u32 || load::are_in_use(*cookies, now) {
        return 0;
    }
    record.chosen = load::lower(now).max(1);
    let before = maps::add(&mut record.count, load::PENDING);
    if seen >= MAX_LOAD {
        return RESERVED;
    }
    // Of two CPUs that choose in two groups at once, at least one sees what the other has reserved.
    let had = if settings::source() == Source::ServiceConnections as u32 {
        service::bal_service_load(slot).wrapping_sub(1)
    } else {
        load::connections(before)
    };
    if had <= seen {
        return RESERVED;
    }
    maps::add(&mut record.count, load::PENDING.wrapping_neg());
    OVERTAKEN
}

/// Notes that the kernel refused a slot: because it is empty, or for a reason that is a defect.
/// Returns nothing of use; a function that the verifier checks once, as those of [`least_loaded`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_refused(slot: u32, empty: u32, reserved: u32) -> u32 {
    if let Some(load) = maps::load(slot) {
        // Out of the race for the least load, until userspace registers somebody there.
        load.weight = 0;
        if reserved == RESERVED {
            maps::add(&mut load.count, load::PENDING.wrapping_neg());
        }
    }
    if empty == 0 {
        count(|misses| misses.errors += 1);
    }
    0
}

#[inline(never)]
fn taken(ctx: &SkReuseportContext, packet: u64, slot: u32, at: u32) {
    let packet = Packet::from_word(packet);
    let slot = if settings::flow_sets() != 0 { begins(ctx, slot) } else { slot };
    if let Some(counters) = maps::counters(slot) {
        if packet.kind() == PacketKind::Migration {
            migrate::count(ctx, slot, counters);
        } else {
            counters.selected += 1;
        }
    }
    early::note(ctx, packet, slot);
    client::log(ctx, at, slot);
}

/// Notes the flow that begins with a datagram; the slot that it has.
#[inline(always)]
fn begins(ctx: &SkReuseportContext, slot: u32) -> u32 {
    let its = flow::begin(flow::key(ctx), slot);
    // The last one selected is chosen.
    if its != slot && maps::select(ctx, its) == 0 { its } else { slot }
}

#[inline(always)]
fn count(what: impl FnOnce(&mut Misses)) {
    if let Some(misses) = maps::misses() {
        what(misses);
    }
}
