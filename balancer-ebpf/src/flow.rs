//! Flows: a datagram of a known client goes where its first one went, whatever the policy would choose
//! now, as long as that socket is there. See [`balancer_common::flow`].
//!
//! To find a flow takes no lock. To begin one takes its set's, so that two datagrams of a client, on two
//! CPUs, never begin two. It is had for less than a microsecond; who asks in vain all the same, as the host
//! of a virtual machine may stop a CPU, notes nothing, and the next datagram begins the flow.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_coarse_ns,
    programs::{SkReuseportContext, SockAddrContext},
};
use balancer_common::{
    address::Address,
    draw,
    flow::{self, SET, SWEPT, Timeouts},
    load::{self, lower},
    record::{Flow, LoadRecord},
};

use crate::{client, count, maps, settings};

/// How often a set's lock is asked for. It is had for less than a microsecond.
const TRIES: u32 = 128;

/// Who has sent.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Sender {
    Client = 0,
    Worker = 1,
}

/// The key of the client that sent a datagram. A function of its own, for the object's size.
#[inline(never)]
pub fn key(ctx: &SkReuseportContext) -> u64 {
    flow::key(client::address(ctx), client::source_port(ctx).to_be(), settings::flow_seed())
}

/// The slot of a client's flow, if it has one and its socket is there.
#[inline(always)]
pub fn known(key: u64) -> Option<u32> {
    let found = bal_known_flow(key, head(key), Sender::Client as u32);
    (found != 0).then(|| found - 1)
}

/// The head of a key's set. The functions below take it as an argument: if the compiler saw that it is a
/// multiple, it would count from one end of a set to the other, and the verifier would see no bound.
#[inline(always)]
fn head(key: u64) -> u32 {
    flow::head(key, settings::flow_sets())
}

/// Notes that a client's flow begins in a slot; the slot that it has, as another CPU may have begun it.
#[inline(always)]
pub fn begin(key: u64, slot: u32) -> u32 {
    bal_sweep_due();
    bal_begin_flow(key, head(key), slot, Sender::Client as u32)
}

/// Notes that the socket of a client's flow is gone, so that it begins anew elsewhere.
#[inline(always)]
pub fn leave(key: u64) {
    bal_leave_flow(key, head(key));
}

/// A worker sends a datagram to an address.
#[inline(always)]
pub fn answered(ctx: &SockAddrContext, v4: bool) {
    let address = ctx.sock_addr;
    // SAFETY: fields of the kernel's context, word by word.
    let (socket, port) = unsafe { ((*address).__bindgen_anon_1.sk, (*address).user_port) };
    let Some(place) = count::place(socket.cast()) else { return };
    if u32::from(place.tag.group) != settings::group() {
        return;
    }
    let own = u32::from(place.tag.slot);
    if maps::load(own).is_none_or(|record| record.tenant != place.tag.tenant) {
        return;
    }
    // SAFETY: as above; volatile, or the compiler would read two at once.
    let client = unsafe {
        if v4 {
            Address::v4((&raw const (*address).user_ip4).read_volatile().to_ne_bytes())
        } else {
            let word = |at: usize| (&raw const (*address).user_ip6[at]).read_volatile();
            Address::of_words([word(0), word(1), word(2), word(3)])
        }
    };
    let key = flow::key(client, (port & 0xffff) as u16, settings::flow_seed());
    let known = bal_known_flow(key, head(key), Sender::Worker as u32);
    if known == own + 1 {
        return;
    }
    // While the kernel's hash chooses, it may have given the client to another.
    if known != 0 {
        bal_leave_flow(key, head(key));
    }
    bal_begin_flow(key, head(key), own, Sender::Worker as u32);
}

/// The slot of a flow, plus one, if it has not ended and its socket is there; else 0. Notes who has sent.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_known_flow(key: u64, head: u32, sender: u32) -> u32 {
    let Some(found) = find(key, head) else { return 0 };
    let now = now();
    if !flow::is_open(found, now, timeouts()) || tenancy(found).is_none() {
        return 0;
    }
    let slot = found.slot;
    // It may have given its place to another meanwhile.
    if maps::read(&found.key) != key {
        return 0;
    }
    if found.seen != now {
        bal_sweep_due();
    }
    note(found, now, sender);
    u32::from(slot) + 1
}

/// Counts a flow off where it was; what is left of it moves when it begins again. Returns nothing of use.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_leave_flow(key: u64, head: u32) -> u32 {
    if !lock(head) {
        return 0;
    }
    if let Some(found) = find(key, head) {
        count_off(found);
        found.tenant = 0;
    }
    unlock(head);
    0
}

/// Begins a flow, or finds the one that another CPU has begun; its slot.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_begin_flow(key: u64, head: u32, slot: u32, sender: u32) -> u32 {
    if !lock(head) {
        return slot;
    }
    let begun = begin_locked(key, slot, sender, head);
    unlock(head);
    begun
}

#[inline(always)]
fn begin_locked(key: u64, slot: u32, sender: u32, head: u32) -> u32 {
    let place = bal_flow_place(key, head);
    let (Some(flow), Some(record)) = (maps::flow(lower(place)), maps::load(slot)) else {
        return slot;
    };
    let now = now();
    if place & KNOWN != 0 {
        note(flow, now, sender);
        return flow.slot.into();
    }
    if place & EVICTS != 0
        && let Some(misses) = maps::misses()
    {
        let assured = u64::from(flow::is_assured(flow));
        misses.evicted += assured;
        misses.evicted_unassured += 1 - assured;
    }
    end(flow);
    (flow.tenant, flow.seen, flow.slot) = (record.tenant, now, (slot & 0xffff) as u16);
    (flow.asked, flow.answered) = (0, 0);
    note(flow, now, sender);
    // In one step and at last, since others look for it without the lock.
    maps::add(&mut flow.key, key);
    maps::add(&mut record.count, load::OPEN);
    maps::add(&mut record.established, 1);
    if place & MOVES != 0
        && let Some(counters) = maps::counters(slot)
    {
        counters.migrated += 1;
        counters.moved += 1;
    }
    slot
}

// Of what `bal_flow_place` says, beside the place.
/// The flow is there, and its socket too.
const KNOWN: u64 = 1 << 32;
/// The flow is there and goes on, but its socket is gone.
const MOVES: u64 = 1 << 33;
/// Another flow is there that goes on.
const EVICTS: u64 = 1 << 34;

/// Where in its set a flow is, or may begin. Under the set's lock.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_flow_place(key: u64, head: u32) -> u64 {
    let now = now();
    let (mut place, mut rank) = (head | 1, 0);
    for way in 1..SET {
        let Some(flow) = maps::flow(head | way) else { break };
        let its = flow::rank(flow, now, timeouts());
        if flow.key == key {
            let kind = if its == u64::MAX {
                0
            } else if tenancy(flow).is_some() {
                KNOWN
            } else {
                MOVES
            };
            return u64::from(head | way) | kind;
        }
        if its > rank {
            (place, rank) = (head | way, its);
        }
    }
    u64::from(place) | if rank == u64::MAX { 0 } else { EVICTS }
}

/// Sweeps some sets if they are due, so that each is swept once in the time in which a flow that is not
/// assured ends: what a slot is said to have open is right by then, if enough is sent. Returns nothing of use.
///
/// No loop: without CAP_PERFMON the verifier follows one beyond its bound, as a CPU might that guesses.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_sweep_due() -> u32 {
    let (sets, every) = (settings::flow_sets(), timeouts().unassured);
    let Some(swept) = maps::cursor(maps::SWEEPS) else { return 0 };
    let Some(skipped) = flow::sweep_due(now(), maps::read(swept), sets, every) else { return 0 };
    let first = maps::add(swept, skipped + u64::from(SWEPT)) + skipped;
    let start = draw::wrap(first, sets);
    macro_rules! sweep {
        ($($step:literal)+) => {
            $(bal_sweep_flows(draw::beside(start, $step, sets) * SET);)+
        };
    }
    sweep!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    sweep!(16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    0
}

/// Takes the flows out of one set that have ended. Returns nothing of use.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_sweep_flows(head: u32) -> u32 {
    if !lock(head) {
        return 0;
    }
    let now = now();
    for way in 1..SET {
        let Some(flow) = maps::flow(head | way) else { break };
        if flow.key != 0 && !flow::is_open(flow, now, timeouts()) {
            end(flow);
        }
    }
    unlock(head);
    0
}

/// Frees a flow's place, and counts it off where it was.
#[inline(always)]
fn end(flow: &mut Flow) {
    if flow.key == 0 {
        return;
    }
    flow.key = 0;
    count_off(flow);
}

#[inline(always)]
fn count_off(flow: &Flow) {
    if let Some(record) = tenancy(flow) {
        maps::add(&mut record.count, load::OPEN.wrapping_neg());
    }
}

#[inline(always)]
fn note(flow: &mut Flow, now: u32, sender: u32) {
    if flow.seen != now {
        flow.seen = now;
    }
    if sender == Sender::Worker as u32 {
        if flow.answered == 0 {
            flow.answered = 1;
        }
        return;
    }
    let asked = flow::asked(flow);
    if flow.asked != asked {
        flow.asked = asked;
    }
}

#[inline(always)]
fn find(key: u64, head: u32) -> Option<&'static mut Flow> {
    for way in 1..SET {
        let flow = maps::flow(head | way)?;
        if maps::read(&flow.key) == key {
            return Some(flow);
        }
    }
    None
}

/// The record of the slot that a flow was given to, while its socket is the same.
#[inline(always)]
fn tenancy(flow: &Flow) -> Option<&'static mut LoadRecord> {
    let record = maps::load(flow.slot.into())?;
    (record.tenant == flow.tenant && flow.tenant != 0).then_some(record)
}

#[inline(always)]
fn lock(head: u32) -> bool {
    bal_lock_flows(head) != 0
}

/// Takes the lock of a set: 1, or 0 if it is not to be had. A function of its own for the verifier, which
/// would walk what comes after it once for each try.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_lock_flows(head: u32) -> u32 {
    for _ in 0..TRIES {
        let Some(lock) = maps::flow(head) else { return 0 };
        if maps::add(&mut lock.key, 1) == 0 {
            return 1;
        }
        maps::add(&mut lock.key, 1u64.wrapping_neg());
    }
    0
}

#[inline(always)]
fn unlock(head: u32) {
    if let Some(lock) = maps::flow(head) {
        maps::add(&mut lock.key, 1u64.wrapping_neg());
    }
}

#[inline(always)]
fn timeouts() -> Timeouts {
    settings::flow_timeouts()
}

/// Now, in ticks.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: it only reads a clock, that of the last timer interrupt.
    flow::ticks(unsafe { bpf_ktime_get_coarse_ns() })
}
