//! Who has the least to do, and that one more connection is on its way there.

use aya_ebpf::helpers::bpf_jiffies64;
use balancer_ebpf::{
    MAX_MEMBERS,
    control::Control,
    draw,
    load::{self, Least, MAX_LOAD, Source},
    record::LoadRecord,
    stall,
};

use crate::{maps, queue::Sockets, segment::Segment, settings, steer::Draw};

/// How often a choice is made anew because another CPU made the same one meanwhile.
const CLAIMS: u32 = 4;

/// A time in ticks that no queue stands still for.
const NEVER: u32 = u32::MAX;

/// `least-connections` and `shortest-queue`: of all members.
#[inline(always)]
pub fn of_all(segment: Segment, live: Control, attempt: u32, now: u32) -> Option<Draw> {
    let start = draw::wrap(maps::tick(segment.counter())?, live.members);
    let source = settings::source();
    if attempt == 0 {
        correct(maps::member_at(live, start)?);
    }
    let found = if source == Source::Queue as u32 {
        bal_scan_queues(live.pack(), start, settings::stall_ticks().unwrap_or(NEVER), now)
    } else {
        bal_scan_loads(live.pack(), start, now)
    };
    let Some((slot, seen)) = Least::unpack(found) else { return Some(Draw::Nobody) };
    let seen = if attempt < CLAIMS { seen } else { MAX_LOAD };
    let claimed = claim(segment, slot, seen);
    Some(if claimed { Draw::Slot { slot, at: start } } else { Draw::Again })
}

/// `two-choices`: of two positions of the table, never the same.
#[inline(always)]
pub fn of_two(segment: Segment, live: Control, hash: u32) -> Option<Draw> {
    let first = draw::scale(draw::random(maps::random_state()?, hash), live.positions);
    let apart = draw::random(maps::random_state()?, hash);
    let second = draw::second(first, apart, live.positions);
    let (one, other) = (maps::slot_at(live, first)?, maps::slot_at(live, second)?);
    correct(other);
    let lighter = bal_is_lighter(other, one) != 0;
    let (slot, at) = if lighter { (other, second) } else { (one, first) };
    claim(segment, slot, MAX_LOAD);
    Some(Draw::Slot { slot, at })
}

/// The shortest queue of all, stalled or not.
#[inline(always)]
pub fn shortest_queue(live: Control, start: u32) -> Option<u32> {
    Least::unpack(bal_scan_queues(live.pack(), start, NEVER, 0)).map(|(slot, _)| slot)
}

#[inline(always)]
fn load_of(slot: u32, record: &LoadRecord) -> Option<u64> {
    if settings::source() == Source::Reported as u32 {
        Some(load::reported(maps::reported(slot)?))
    } else {
        Some(load::connections(record.count))
    }
}

/// The member with the lowest load by weight, of several the first from `start` on, packed. Its body
/// must have no two ways that meet again: see [`Least`].
#[inline(always)]
fn scan(
    control: u64,
    start: u32,
    threshold: u32,
    now: u32,
    load: impl Fn(u32, &LoadRecord) -> Option<(u64, u64)>,
) -> u64 {
    let live = Control::unpack(control);
    let mut least = Least::default();
    for index in 0..MAX_MEMBERS {
        if index >= live.members {
            break;
        }
        let Some(slot) = maps::member_at(live, index) else { break };
        let Some(record) = maps::load(slot) else { break };
        let Some((load, barred)) = load(slot, record) else { break };
        let barred = barred | stall::if_stalled(record.sighting, now, threshold);
        least = least.or(slot, load, record.weight, index.wrapping_sub(start), barred);
    }
    least.pack()
}

// Functions of their own for the verifier, which checks them once and not with each path that leads
// there: their loops would be too much of that.

/// By connections, or by what workers say.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_scan_loads(control: u64, start: u32, now: u32) -> u64 {
    scan(control, start, settings::stall_ticks().unwrap_or(NEVER), now, |slot, record| {
        Some((load_of(slot, record)?, 0))
    })
}

/// Whether a slot has less to do by its weight than another: 1, or 0. One without a socket has the
/// most.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_is_lighter(slot: u32, than: u32) -> u32 {
    let (Some(ours), Some(its)) = (maps::load(slot), maps::load(than)) else { return 0 };
    let (Some(load), Some(other)) = (load_of(slot, ours), load_of(than, its)) else { return 0 };
    let lighter = load::is_lighter(load, ours.weight, other, its.weight);
    u32::from(ours.weight != 0 && (its.weight == 0 || lighter))
}

/// By queues; who has stood still for so many ticks is left out.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_scan_queues(control: u64, start: u32, threshold: u32, now: u32) -> u64 {
    if settings::stall_ticks().is_none() && settings::source() != Source::Queue as u32 {
        return Least::default().pack();
    }
    let sockets = Sockets::find();
    scan(control, start, threshold, now, |slot, _| {
        let socket = sockets.at(slot);
        Some((sockets.waiting(socket), socket.if_none()))
    })
}

/// Counts a new connection as on its way to a slot; false where the slot had not the load any more
/// that it was chosen for, and that is less than [`MAX_LOAD`]: then it is not counted.
#[inline(always)]
fn claim(segment: Segment, slot: u32, seen: u64) -> bool {
    // What migrates is counted where it is open, or by the kernel itself while it is half open.
    if settings::source() != Source::Connections as u32 || segment.migrates() {
        return true;
    }
    bal_claim(slot, seen, segment.is_syn().into()) != 0
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: the helper only reads a counter.
    unsafe { bpf_jiffies64() }
}

/// The counting of a claim, by a SYN or another segment: 1, or 0 where it came too late.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_claim(slot: u32, seen: u64, syn: u32) -> u32 {
    let (Some(record), Some(cookies)) = (maps::load(slot), maps::cookies()) else { return 1 };
    let now = jiffies();
    // With SYN cookies the kernel forgets who sent a SYN, and asks again when the cookie is back: only
    // that choice comes to anything.
    if syn != 0 {
        if load::are_in_use(*cookies, now) {
            return 1;
        }
    } else if load::may_be_cookie(Sockets::find().at(slot).cookie_sent(), now) {
        *cookies = now;
    } else {
        // A straggler of a connection that is gone.
        return 1;
    }
    record.claimed = now;
    let before = maps::add(&mut record.count, load::PENDING);
    if seen >= MAX_LOAD || load::connections(before) == seen {
        return 1;
    }
    maps::add(&mut record.count, load::PENDING.wrapping_neg());
    0
}

/// Compares a slot's connections on their way with the kernel's own count of them. One member a
/// choice, in turn: so whoever is counted wrong is set right soon, however many there are.
#[inline(always)]
fn correct(slot: u32) {
    if settings::source() == Source::Connections as u32
        // To ask the kernel costs more than the rest of a choice.
        && maps::load(slot).is_some_and(|record| load::pending(record.count) != 0)
    {
        bal_correct(slot);
    }
}

/// Does it; returns how many the kernel knows of.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_correct(slot: u32) -> u32 {
    if settings::source() != Source::Connections as u32 {
        return 0;
    }
    let Some(record) = maps::load(slot) else { return 0 };
    // In this order: who is counted meanwhile has set the time before, and is not long ago.
    let now = jiffies();
    let half_open = Sockets::find().at(slot).half_open();
    let count = maps::read(&record.count);
    let since = now.saturating_sub(maps::read(&record.claimed));
    let correction = load::correction(count, half_open, since);
    if correction != 0 {
        maps::add(&mut record.count, correction);
    }
    half_open
}
