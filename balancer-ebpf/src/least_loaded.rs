//! Which member has the least to do.
//!
//! A choice compares the loads of up to 128 members, and the queues of up to 16, so it takes no longer in a
//! group of 1,024: see [`draw::COMPARED`].
//!
//! The verifier shapes this file more than any other. It walks a loop once for every turn that it may
//! take, and every path through a turn that does not meet another in a state that it has seen
//! (state pruning); at a million instructions in all it refuses the program. So the scans are functions
//! with plain numbers for arguments (global functions), which it walks once and not with each path that
//! leads there, and their bodies choose by arithmetic and not by branches. What it walks for each program
//! is recorded in `balancer-steering/object/verified.txt`: up to 351,000 on Linux 6.18. `bpf_loop` would
//! end that, but came with Linux 5.17, and CO-RE relocations are not made by the Rust compiler: the few
//! offsets into kernel structures are found by userspace, in BTF, when it loads the program.

use balancer_common::{
    control::Control,
    draw::{self, COMPARED, COMPARED_QUEUES},
    load::{self, Least, MAX_LOAD, Source, if_negative},
    record::LoadRecord,
};

use crate::{
    drawn::Draw,
    maps,
    packet::Packet,
    queue::{self, Sockets},
    service, settings, share,
};

/// How often a choice is made anew because another CPU made the same one meanwhile.
const OVERTAKEN: u32 = 4;

/// `least-connections` and `shortest-queue`: of all members, or of those whose turn it is.
#[inline(always)]
pub fn of_all(packet: Packet, live: Control, attempt: u32) -> Option<Draw> {
    let turn = maps::tick(packet.counter())?;
    if attempt == 0 {
        look_again(maps::member_at(live, draw::wrap(turn, live.members))?);
    }
    let by_queue = settings::source() == Source::Queue as u32;
    let compared = if by_queue { COMPARED_QUEUES } else { COMPARED };
    let start = draw::first_compared(turn, live.members, compared);
    let found = if by_queue {
        bal_scan_queues(live.pack(), start, 0)
    } else {
        bal_scan_loads(live.pack(), start)
    };
    let Some((least, seen)) = Least::unpack(found) else { return Some(Draw::Nobody) };
    let slot = share::within(live, least, turn);
    if slot != least {
        return Some(Draw::Slot { slot, at: start, seen: MAX_LOAD });
    }
    let by_count = attempt < OVERTAKEN && settings::goes_by_count();
    Some(Draw::Slot { slot, at: start, seen: if by_count { seen } else { MAX_LOAD } })
}

/// `two-choices`: of two positions of the table, never the same.
#[inline(always)]
pub fn of_two(packet: Packet, live: Control, hash: u32) -> Option<Draw> {
    let first = draw::scale(draw::random(maps::random_state()?, hash), live.positions);
    let apart = draw::random(maps::random_state()?, hash);
    let second = draw::second(first, apart, live.positions);
    let (one, other) = (maps::slot_at(live, first)?, maps::slot_at(live, second)?);
    look_again(other);
    let less_loaded = bal_is_less_loaded(other, one) != 0;
    let (slot, at) = if less_loaded { (other, second) } else { (one, first) };
    let slot = share::within(live, slot, share::turn(packet.counter())?);
    Some(Draw::Slot { slot, at, seen: MAX_LOAD })
}

/// The shortest queue of those from `start` on, able or not.
#[inline(always)]
pub fn shortest_queue(live: Control, start: u32) -> Option<u32> {
    Least::unpack(bal_scan_queues(live.pack(), start, 1)).map(|(slot, _)| slot)
}

/// Looks at one member anew, in turn: whether it is able again, and how many are on their way to it. So
/// a wrong note is set right soon, however many members there are.
#[inline(always)]
fn look_again(slot: u32) {
    let Some(record) = maps::load(slot) else { return };
    if record.unable != 0 {
        queue::bal_check_queue(slot);
    }
    // To ask the kernel costs as much as the rest of a choice.
    if load::pending(record.count) != 0 {
        queue::bal_correct(slot);
    }
}

#[inline(always)]
fn load_of(slot: u32, record: &LoadRecord) -> Option<u64> {
    if settings::source() == Source::Reported as u32 {
        Some(load::reported(maps::reported(slot)?))
    } else if settings::source() == Source::Requests as u32 {
        Some(load::requests(maps::read(&record.work), record.count))
    } else if settings::is_of_service() {
        Some(service::bal_service_load(slot))
    } else {
        Some(load::connections(record.count))
    }
}

/// The member with the lowest load by weight of so many from `start` on, of several the first, packed. Its
/// body must have no two ways that meet again: see [`Least`].
#[inline(always)]
fn scan(
    control: u64,
    start: u32,
    most: u32,
    load: impl Fn(u32, &LoadRecord) -> Option<(u64, u64)>,
) -> u64 {
    let live = Control::unpack(control);
    let mut least = Least::default();
    for step in 0..most {
        if step >= live.members {
            break;
        }
        let place = draw::beside(start, step, live.members);
        let Some(slot) = maps::member_at(live, place) else { break };
        let Some(record) = maps::load(slot) else { break };
        let Some((load, barred)) = load(slot, record) else { break };
        least = least.or(slot, load, record.weight.into(), step, barred);
    }
    least.pack()
}

/// All ones for one that is not able, else 0.
#[inline(always)]
fn if_unable(record: &LoadRecord) -> u64 {
    if_negative(-i64::from(record.unable))
}

// Functions of their own for the verifier, which checks them once and not with each path that leads
// there: their loops would be too much of that.

/// By connections, by requests, or by what workers say.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_scan_loads(control: u64, start: u32) -> u64 {
    scan(control, start, COMPARED, |slot, record| Some((load_of(slot, record)?, if_unable(record))))
}

/// Whether a slot has less to do by its weight than another: 1, or 0. One that is not able, or without
/// a socket, has the most.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_is_less_loaded(slot: u32, than: u32) -> u32 {
    let (Some(ours), Some(its)) = (maps::load(slot), maps::load(than)) else { return 0 };
    let (Some(load), Some(other)) = (load_of(slot, ours), load_of(than, its)) else { return 0 };
    let less_loaded = load::is_less_loaded(load, ours.weight.into(), other, its.weight.into());
    let less_loaded = less_loaded && ours.unable == 0;
    u32::from(ours.weight != 0 && (its.weight == 0 || its.unable != 0 || less_loaded))
}

/// By queues; of all, or of those that are able.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_scan_queues(control: u64, start: u32, all: u32) -> u64 {
    if !settings::looks() {
        return Least::default().pack();
    }
    let sockets = Sockets::find();
    let able_only = if_negative(i64::from(all) - 1);
    scan(control, start, COMPARED_QUEUES, |slot, record| {
        let socket = sockets.at(slot);
        let barred = socket.if_none() | if_unable(record) & able_only;
        Some((sockets.waiting(socket), barred))
    })
}
