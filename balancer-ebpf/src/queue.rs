//! What waits at a member's socket, read out of the socket itself at the moment of choice: no hook on
//! accept, nothing to keep up to date.
//!
//! The sockets are found through the socket array. A program may not look a socket up in it, but the
//! address of a map is what it hands to every helper: read back from the stack it is a number, and
//! `bpf_probe_read_kernel` reads what is there (`struct reuseport_array`,
//! `kernel/bpf/reuseport_array.c`). A socket that goes at that moment reads as garbage and not as a
//! fault; at the next choice its slot is empty. Needs CAP_PERFMON.
//!
//! What cannot be read is 0: the helper zeroes it, and a branch less is a path less to verify.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_probe_read_kernel};
use balancer_ebpf::{load::if_negative, stall};

use crate::{
    maps,
    settings::{self, offset},
};

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
    pub fn half_open(self) -> u32 {
        read_u32(self.0 + offset::half_open())
    }

    /// When the kernel last sent a SYN cookie for one of the group, in jiffies, their lower half.
    #[inline(always)]
    pub fn cookie_sent(self) -> u32 {
        read_u32(read_u64(self.0 + offset::group()) + offset::cookie_sent())
    }

    /// What tells the connection that has waited longest from others: the first sequence number it
    /// was answered with.
    #[inline(always)]
    fn head(self) -> Option<u32> {
        let request = read_u64(self.0 + offset::head());
        if request == 0 { None } else { Some(read_u32(request + offset::isn())) }
    }

    /// Whether a datagram finds room.
    #[inline(always)]
    fn has_room(self) -> bool {
        read_u32(self.0 + offset::buffered()) <= read_u32(self.0 + offset::buffer())
    }
}

/// Now, in ticks.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: it only reads a clock.
    stall::ticks(unsafe { bpf_ktime_get_ns() })
}

/// Looks whether a slot's queue has moved, notes it, and says whether it stands still too long: 1, or
/// 0. A function of its own for the verifier, which checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_stalled(slot: u32, now: u32) -> u32 {
    let Some(threshold) = settings::stall_ticks() else { return 0 };
    let Some(load) = maps::load(slot) else { return 0 };
    let sockets = Sockets::find();
    let socket = sockets.at(slot);
    let word = load.sighting;
    let seen = if settings::is_udp() {
        stall::see_queue(word, (sockets.waiting(socket) & 0xffff_ffff) as u32, now)
    } else {
        stall::see_head(word, socket.head(), now)
    };
    // Most have nothing to note, and no CPU has to fetch their line back.
    if seen != word {
        load.sighting = seen;
    }
    stall::is_stalled(seen, now, threshold).into()
}

/// Notes that a datagram goes to a slot.
#[inline(always)]
pub fn sent_to(slot: u32, now: u32) {
    if settings::stall_ticks().is_none() || !settings::is_udp() {
        return;
    }
    let Some(load) = maps::load(slot) else { return };
    if Sockets::find().at(slot).has_room() {
        load.sighting = stall::chosen(load.sighting, now);
    }
}
