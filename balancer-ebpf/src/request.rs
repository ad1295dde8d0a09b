//! The request tracker: when data came on a connection, when its worker read it, and when it wrote.
//! Three tracing programs, for all groups of the host, there only while somebody observes or a policy
//! goes by requests. Linux 6.3 (`sock_recv_length`, `sock_send_length`).
//!
//! The kernel may skip a tracing program (`bpf_prog.active`), so times are samples. Counts are exact all
//! the same: see [`balancer_common::request`].

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_and, atomic_cxchg, atomic_or},
};

use aya_ebpf::{
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_probe_read_kernel},
    programs::BtfTracePointContext,
};
use balancer_common::{
    histogram,
    record::{LoadRecord, Place, RequestTimes, Times},
    request::{self, CLOSED, ERA, FRESH, MOVED, OWED, UNREAD},
};

use crate::{
    count, maps,
    settings::{self, offset},
};

/// A segment came on an established connection: `tcp_probe(sk, skb)`.
#[inline(always)]
pub fn arrived(ctx: &BtfTracePointContext) {
    let (socket, packet): (*mut c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let Some(place) = open_place(socket) else { return };
    let before = current(place);
    // More of what has come already changes nothing.
    if before & (UNREAD | FRESH) == UNREAD || !has_data(packet) {
        return;
    }
    let Some(mut home) = Home::of(place, socket) else { return };
    if before & UNREAD == 0 {
        place.arrived = now();
        home.set(place, UNREAD);
    }
    home.clear(place, FRESH);
}

/// A process read: `sock_recv_length(sk, ret, flags)`.
#[inline(always)]
pub fn read(ctx: &BtfTracePointContext) {
    let (socket, length): (*mut c_void, i32) = (ctx.arg(0), ctx.arg(1));
    if length < 0 {
        return;
    }
    let Some(place) = open_place(socket) else { return };
    let Some(mut home) = Home::of(place, socket) else { return };
    let before = current(place);
    if length == 0 {
        // The end of what the client sends.
        home.clear(place, UNREAD);
        return;
    }
    if before & UNREAD != 0 {
        let arrived = place.arrived;
        if before & OWED == 0 {
            place.owed = arrived;
        }
        home.advance(place, before);
        if let Some(times) = home.times() {
            let time = now().wrapping_sub(arrived);
            count_time(&mut times.to_read, time);
            if home.is_apart(before) {
                count_time(&mut times.apart_to_read, time);
            }
        }
    } else if before & FRESH != 0 {
        // It came with the end of the handshake, which the kernel handles elsewhere.
        place.owed = place.established;
        home.set(place, OWED);
        home.clear(place, FRESH);
    }
}

/// A process wrote: `sock_send_length(sk, ret, flags)`.
#[inline(always)]
pub fn wrote(ctx: &BtfTracePointContext) {
    let (socket, length): (*mut c_void, i32) = (ctx.arg(0), ctx.arg(1));
    if length <= 0 {
        return;
    }
    let Some(place) = open_place(socket) else { return };
    let Some(mut home) = Home::of(place, socket) else { return };
    let before = home.clear(place, OWED | FRESH);
    if before & (OWED | FRESH) != 0
        && let Some(times) = home.times()
    {
        let now = now();
        if before & OWED != 0 {
            let time = now.wrapping_sub(place.owed);
            count_time(&mut times.to_answer, time);
            if home.is_apart(before) {
                count_time(&mut times.apart_to_answer, time);
            }
        }
        if place.established != 0 {
            count_time(&mut times.to_first, now.wrapping_sub(place.established));
            place.established = 0;
        }
    }
}

/// A connection is established, as the counting program is told. `epoch` is the tracker's.
#[inline(always)]
pub fn established(place: &mut Place, record: &mut LoadRecord, epoch: u32) {
    place.established = now();
    let era = maps::read(&record.era) & ERA;
    set(place, record, epoch, FRESH | era);
}

/// A connection ends, as the counting program is told: it owes nothing any more, to its first member or,
/// if it was seen after it had migrated, to the other.
#[inline(always)]
pub fn ended(
    place: &mut Place,
    first: Option<&mut LoadRecord>,
    other: Option<&mut LoadRecord>,
    epoch: u32,
) {
    let before = or(&mut place.work, CLOSED);
    let weight = request::weight(request::current(before, epoch));
    if let Some(record) = if before & MOVED != 0 { other } else { first } {
        add(record, weight.wrapping_neg());
    }
}

/// Where a connection is counted.
struct Home {
    record: &'static mut LoadRecord,
}

impl Home {
    #[inline(always)]
    fn of(place: &mut Place, socket: *mut c_void) -> Option<Self> {
        let record = maps::load_of(place.tag.group.into(), place.tag.slot.into())?;
        let own = record.tenant == place.tag.tenant;
        if own && record.moved == 0 {
            return Some(Self { record });
        }
        // SAFETY: the kernel's socket.
        let Some(elsewhere) = maps::moved(unsafe { bpf_get_socket_cookie(socket) }) else {
            return own.then_some(Self { record });
        };
        let record = count::record(elsewhere)?;
        // The first time that it is seen there, all that it owes goes there.
        let before = or(&mut place.work, MOVED);
        if before & MOVED == 0 {
            add(record, request::weight(request::current(before, settings::epoch())));
        }
        Some(Self { record })
    }

    #[inline(always)]
    fn set(&mut self, place: &mut Place, bits: u64) {
        set(place, self.record, settings::epoch(), bits);
    }

    /// What was unread is owed: at once if nothing else has happened to the word, as is the rule.
    #[inline(always)]
    fn advance(&mut self, place: &mut Place, before: u64) {
        let after = before & !UNREAD | OWED;
        if exchange(&mut place.work, before, after) {
            add(self.record, request::difference(before, after));
            return;
        }
        self.set(place, OWED);
        self.clear(place, UNREAD);
    }

    /// What the connection's word was before.
    #[inline(always)]
    fn clear(&mut self, place: &mut Place, bits: u64) -> u64 {
        let before = current(place);
        // Nothing to clear is the rule, and no line is fetched for it.
        if before & bits == 0 {
            return before;
        }
        let before = and(&mut place.work, !bits);
        add(self.record, request::difference(before, before & !bits));
        before
    }

    /// Whether times of a connection with this word are counted apart.
    #[inline(always)]
    fn is_apart(&self, word: u64) -> bool {
        request::is_apart(word, maps::read(&self.record.era))
    }

    #[inline(always)]
    fn times(&self) -> Option<&'static mut RequestTimes> {
        maps::times(self.record)
    }
}

/// Sets bits of a connection's word, and counts what that changes.
#[inline(always)]
fn set(place: &mut Place, record: &mut LoadRecord, epoch: u32, bits: u64) {
    let word = maps::read(&place.work);
    let begun = request::current(word, epoch);
    if begun != word && exchange(&mut place.work, word, begun | bits) {
        add(record, request::difference(begun, begun | bits));
        return;
    }
    let before = or(&mut place.work, bits);
    add(record, request::difference(before, before | bits));
}

/// A connection's word, as this tracker has written it.
#[inline(always)]
fn current(place: &Place) -> u64 {
    request::current(maps::read(&place.work), settings::epoch())
}

#[inline(always)]
fn add(record: &mut LoadRecord, difference: u64) {
    if difference != 0 {
        maps::add(&mut record.work, difference);
    }
}

/// The place of a connection that a member has open.
#[inline(always)]
fn open_place(socket: *mut c_void) -> Option<&'static mut Place> {
    count::place(socket).filter(|place| place.tag.counted != 0)
}

/// Whether a TCP segment has more than its header.
#[inline(always)]
fn has_data(packet: *const c_void) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "it is one of 32 bits")]
    let field = |offset: u64| packet.cast::<u8>().wrapping_add(offset as usize);
    // SAFETY: fields of the kernel's packet, at the offsets that its BTF tells; the verifier checks.
    let (length, start) = unsafe {
        (*field(offset::packet_length()).cast::<u32>(), *field(offset::packet()).cast::<u64>())
    };
    let mut words = 0u8;
    // SAFETY: the helper writes an octet to our stack, and reads nothing that is not there.
    unsafe { bpf_probe_read_kernel((&raw mut words).cast(), 1, (start + DATA_OFFSET) as *const _) };
    length > u32::from(words >> 4) * 4
}

/// Where a TCP header says how long it is: in 32-bit words, in the upper half of an octet.
const DATA_OFFSET: u64 = 12;

#[inline(always)]
fn count_time(times: &mut Times, nanoseconds: u64) {
    if let Some(count) = times.get_mut(histogram::bucket(nanoseconds)) {
        maps::add(count, 1);
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: it only reads a clock.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn or(word: &mut u64, bits: u64) -> u64 {
    // SAFETY: a reference is aligned and points to somewhere.
    unsafe { atomic_or::<u64, u64, { AtomicOrdering::AcqRel }>(word, bits) }
}

#[inline(always)]
fn and(word: &mut u64, bits: u64) -> u64 {
    // SAFETY: as above.
    unsafe { atomic_and::<u64, u64, { AtomicOrdering::AcqRel }>(word, bits) }
}

/// Writes a word if it is still the same.
#[inline(always)]
fn exchange(word: &mut u64, same: u64, new: u64) -> bool {
    const ORDERING: AtomicOrdering = AtomicOrdering::AcqRel;
    const FAILED: AtomicOrdering = AtomicOrdering::Acquire;
    // SAFETY: as above.
    unsafe { atomic_cxchg::<u64, ORDERING, FAILED>(word, same, new) }.1
}
