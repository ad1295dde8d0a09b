//! What waits at a member's socket, read out of the socket itself at the moment of choice: no hook on
//! accept, nothing to keep up to date.
//!
//! The sockets are found through the socket array. A program may not look a socket up in it, but the
//! address of a map is what it hands to every helper: read back from the stack it is a number, and
//! `bpf_probe_read_kernel` reads what is there (`struct reuseport_array`,
//! `kernel/bpf/reuseport_array.c`). A socket that goes at that moment reads as garbage and not as a
//! fault; at the next choice its slot is empty. Needs CAP_PERFMON; without it nobody is looked at.
//!
//! What cannot be read is 0: the helper zeroes it, and a branch less is a path less to verify.

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_probe_read_kernel},
    programs::SkReuseportContext,
};
use balancer_common::{
    load::{self, if_negative},
    record::LoadRecord,
    stall,
};

use crate::{
    early::jiffies,
    maps,
    settings::{self, offset},
};

/// What a datagram of an Ethernet packet takes of a buffer, the kernel's own records included (`truesize`).
/// Since Linux 6.16 one that does not fit as a whole is dropped; before, only if the limit was passed already.
const DATAGRAM: u32 = 2304;

/// The stall time that looks go by if there is none, 200 ms in ticks: a server may listen anew with another
/// limit.
const REFRESHED: u32 = 3051;

/// Where the addresses of the sockets are, and what is looked at in each.
#[derive(Clone, Copy)]
pub struct Sockets {
    pointers: u64,
    lengths: [u64; 2],
}

/// The address of a member's socket; 0 where the slot is empty.
#[derive(Clone, Copy)]
pub struct Socket(u64);

#[inline(always)]
fn read_u64(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper writes 8 octets to our stack, and reads nothing that is not there.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
    value
}

#[inline(always)]
fn read_u32(address: u64) -> u32 {
    let mut value = 0u32;
    // SAFETY: as above, with 4 octets.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 4, address as *const _) };
    value
}

impl Sockets {
    #[inline(always)]
    pub fn find() -> Self {
        let pointers = maps::pointers(|| {
            let map = maps::sockets();
            read_u64((&raw const map) as u64) + offset::sockets()
        });
        let lengths = if settings::is_udp() {
            [offset::received(), offset::reading()]
        } else {
            [offset::backlog(), offset::half_open()]
        };
        Self { pointers, lengths }
    }

    /// The socket of a slot, looked for once: it stays where it is for as long as the slot is its own.
    #[inline(always)]
    fn of(record: &mut LoadRecord, slot: u32) -> Socket {
        if record.socket == 0 {
            record.socket = Self::find().at(slot).0;
        }
        Socket(record.socket)
    }

    /// The socket of a slot.
    #[inline(always)]
    pub fn at(self, slot: u32) -> Socket {
        Socket(read_u64(self.pointers + u64::from(slot) * size_of::<u64>() as u64))
    }

    /// Connections that wait to be accepted or whose handshake is under way; for UDP, datagrams that
    /// wait to be read.
    #[inline(always)]
    pub fn waiting(self, socket: Socket) -> u64 {
        let [first, second] = self.lengths;
        u64::from(read_u32(socket.0 + first)) + u64::from(read_u32(socket.0 + second))
    }
}

impl Socket {
    /// All ones where there is none, else 0: the kernel's addresses are in the upper half.
    #[inline(always)]
    pub fn if_none(self) -> u64 {
        !if_negative(self.0 as i64)
    }

    /// Handshakes under way.
    #[inline(always)]
    fn half_open(self) -> u32 {
        read_u32(self.0 + offset::half_open())
    }

    /// How many wait to be accepted, and how many may: neighbours, so that one read has both.
    #[inline(always)]
    fn backlog(self) -> (u32, u32) {
        let both = read_u64(self.0 + offset::backlog());
        (load::lower(both), load::lower(both >> 32))
    }

    /// Whether a datagram of up to some 1,500 octets finds room; into an empty buffer any does.
    #[inline(always)]
    fn has_room(self) -> bool {
        let buffered = read_u32(self.0 + offset::buffered());
        buffered == 0 || buffered.saturating_add(DATAGRAM) <= read_u32(self.0 + offset::buffer())
    }
}

/// Whether the kernel has sent SYN cookies of late for this group, so that an ACK may bring one back.
#[inline(always)]
pub fn sends_cookies(ctx: &SkReuseportContext) -> bool {
    let listener = ctx.sk().sock;
    // As above, a pointer read back from the stack is a number.
    let group = read_u64(read_u64((&raw const listener) as u64) + offset::group());
    load::may_be_cookie(read_u32(group + offset::cookie_sent()), jiffies())
}

/// Now, in ticks.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: it only reads a clock: the time of the last timer interrupt, at a fraction of the cost.
    stall::ticks(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Whether a slot cannot take one more: 1, or 0. Its queue is full, or it stands still while somebody
/// waits. What was seen is noted. A function of its own for the verifier, which checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_check_queue(slot: u32) -> u32 {
    if !settings::looks() {
        return 0;
    }
    let Some(record) = maps::load(slot) else { return 0 };
    let unable = u16::from(if settings::is_udp() {
        is_udp_unable(record, slot)
    } else {
        is_tcp_unable(record, slot)
    });
    if record.unable != unable {
        record.unable = unable;
    }
    unable.into()
}

#[inline(always)]
fn is_tcp_unable(record: &mut LoadRecord, slot: u32) -> bool {
    let word = record.observed;
    let established = load::lower(maps::read(&record.established));
    let most = stall::at_most(word, established);
    let pending = load::pending(maps::read(&record.count));
    if record.unable == 0 && !load::is_full(most, pending, record.limit) {
        let threshold = settings::stall_ticks().unwrap_or(REFRESHED);
        if most == 0 || stall::is_recent(record.looked, now(), threshold) {
            return false;
        }
    }
    let (waiting, limit) = Sockets::of(record, slot).backlog();
    record.limit = limit;
    record.looked = now();
    let mut stalled = false;
    let seen = if waiting == 0 {
        stall::see_empty(word, established)
    } else {
        let (accepted, now) = (established.wrapping_sub(waiting), record.looked);
        if let Some(threshold) = settings::stall_ticks() {
            stalled = stall::stands_still(word, accepted, now, threshold);
        }
        stall::see_waiting(word, accepted, now)
    };
    // Most have nothing to note, and no CPU has to fetch their line back.
    if seen != word {
        record.observed = seen;
    }
    if stalled {
        return true;
    }
    if !load::is_full(waiting, pending, limit) {
        return false;
    }
    // Reservations may be of handshakes that have failed since.
    bal_correct(slot);
    load::is_full(waiting, load::pending(maps::read(&record.count)), limit)
}

#[inline(always)]
fn is_udp_unable(record: &mut LoadRecord, slot: u32) -> bool {
    let socket = Sockets::of(record, slot);
    let mut stalled = false;
    if let Some(threshold) = settings::stall_ticks() {
        let waiting = load::lower(Sockets::find().waiting(socket));
        let (word, now) = (record.observed, now());
        let seen = stall::see_queue(word, waiting, now);
        if seen != word {
            record.observed = seen;
        }
        stalled = stall::is_stalled(seen, now, threshold);
    }
    stalled || !socket.has_room()
}

/// Notes that one more connection has entered a listener's queue.
#[inline(always)]
pub fn enter(record: &mut LoadRecord) {
    let before = load::lower(maps::add(&mut record.established, 1));
    if stall::is_first(record.observed, before) {
        record.observed = stall::first_waits(record.observed, now());
    }
}

/// Notes that a datagram goes to a slot that has room for it.
#[inline(always)]
pub fn sent_to(slot: u32) {
    if !settings::is_udp() || !settings::looks() || settings::stall_ticks().is_none() {
        return;
    }
    if let Some(record) = maps::load(slot) {
        record.observed = stall::chosen(record.observed, now());
    }
}

/// Sets right how many are on their way to a slot, by the kernel's own number where it can be read.
/// Returns nothing of use.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_correct(slot: u32) -> u32 {
    let Some(record) = maps::load(slot) else { return 0 };
    // In this order: who is counted meanwhile has set the time before, and is not long ago.
    let now = load::lower(jiffies());
    let half_open = settings::looks().then(|| Sockets::of(record, slot).half_open());
    let count = maps::read(&record.count);
    // Another CPU may have chosen it since.
    let since = now.wrapping_sub(record.chosen);
    let since = if since > u32::MAX / 2 { 0 } else { since };
    let correction = load::correction(count, half_open, since);
    if correction != 0 {
        maps::add(&mut record.count, correction);
    }
    0
}
