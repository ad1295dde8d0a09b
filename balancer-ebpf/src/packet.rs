//! What is chosen for: which kind of packet, or a connection that migrates.
//!
//! The listener may be looked up before the packet is delivered: by netfilter's `socket` match, or by
//! TPROXY. Then the program runs too, and finds the packet at its IP header and not at its TCP header.
//! Which of the two it is shows by its length. Packets that are longer than their own field says are no SYNs.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::bpf_skb_load_bytes_relative, programs::SkReuseportContext,
};
use balancer_common::{
    draw::{self, PacketKind},
    load::lower,
};

const IPPROTO_TCP: u8 = 6;
const ETH_P_IPV6: u16 = 0x86dd;

// Of a TCP header.
const SEQUENCE: u32 = 4;
const FLAGS: u32 = 13;

/// Octets from the start of either header that are looked at.
const LOOKED_AT: usize = 16;

// Of an IPv6 header.
const IPV6_BYTES: u32 = 40;
/// Headers between IPv6 and TCP that are skipped; the kernel's own limit for some is 8.
const EXTENSIONS: u32 = 8;

/// A packet, or a connection that migrates, in one word: what functions of their own can be given.
#[derive(Clone, Copy)]
pub struct Packet(u64);

const EARLY: u64 = 1 << 8;
const SEQUENCE_SHIFT: u32 = 32;

impl Packet {
    /// What the kernel asks for.
    #[inline(always)]
    pub fn of(ctx: &SkReuseportContext) -> Self {
        if ctx.migrating_sk().is_some() {
            return Self(PacketKind::Migration as u64);
        }
        if ctx.ip_protocol() != u32::from(IPPROTO_TCP) {
            return Self(PacketKind::Datagram as u64);
        }
        Self(tcp(ctx))
    }

    /// Which kind it is.
    #[inline(always)]
    pub fn kind(self) -> PacketKind {
        match self.0 & 0xff {
            1 => PacketKind::Syn,
            2 => PacketKind::Ack,
            3 => PacketKind::Datagram,
            4 => PacketKind::Migration,
            _ => PacketKind::Stray,
        }
    }

    /// Whether it is not delivered yet.
    #[inline(always)]
    pub fn is_early(self) -> bool {
        self.0 & EARLY != 0
    }

    /// What tells it from all others of the moment.
    #[inline(always)]
    pub fn key(self, hash: u32) -> u64 {
        u64::from(hash) << 32 | self.0 >> SEQUENCE_SHIFT
    }

    /// Which of two counters says whose turn it is.
    #[inline(always)]
    pub fn counter(self) -> u32 {
        self.kind().counter()
    }

    /// In one word.
    #[inline(always)]
    pub fn word(self) -> u64 {
        self.0
    }

    /// Out of its word.
    #[inline(always)]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }
}

/// A TCP segment; a stray one where there is none, as in an ICMP error that quotes one. A function of
/// its own, for the object's size.
#[inline(never)]
fn tcp(ctx: &SkReuseportContext) -> u64 {
    segment(ctx).unwrap_or(PacketKind::Stray as u64)
}

#[inline(always)]
fn segment(ctx: &SkReuseportContext) -> Option<u64> {
    let start = ctx.data();
    if start + LOOKED_AT > ctx.data_end() {
        return None;
    }
    // SAFETY: the bound was checked just now.
    let octet = |at: usize| unsafe { *((start + at) as *const u8) };
    // SAFETY: as above; it may be unaligned.
    let read = |at: usize| unsafe { ((start + at) as *const u32).read_unaligned() };
    let pair = |at| u32::from(u16::from_be_bytes([octet(at), octet(at + 1)]));
    let length = lower(ctx.len() as u64);
    let v6 = is_v6(ctx);
    // By its first octets it may be an IP header that is as long as the packet. A TCP header reads like
    // that once in a great while, and is told from it by the real one.
    let looks_early = if v6 {
        octet(0) >> 4 == 6 && pair(4) + IPV6_BYTES == length
    } else {
        octet(0) >> 4 == 4 && pair(2) == length
    };
    if !looks_early {
        return Some(word(octet(FLAGS as usize), read(SEQUENCE as usize), 0));
    }
    let [first, _, high, low, high6, low6, next, _] = load(ctx, 0)?;
    let (whole, header) = if v6 {
        (u32::from(u16::from_be_bytes([high6, low6])) + IPV6_BYTES, IPV6_BYTES)
    } else {
        (u32::from(u16::from_be_bytes([high, low])), u32::from(first & 0xf) * 4)
    };
    if length != whole {
        return Some(word(octet(FLAGS as usize), read(SEQUENCE as usize), 0));
    }
    let at = if v6 { behind_extensions(ctx, next)? } else { behind_ipv4(ctx, header)? };
    let [a, b, c, d, ..] = load(ctx, at + SEQUENCE)?;
    let [.., flags, _, _] = load(ctx, at + FLAGS - 5)?;
    Some(word(flags, u32::from_ne_bytes([a, b, c, d]), EARLY))
}

#[inline(always)]
fn word(flags: u8, sequence: u32, early: u64) -> u64 {
    u64::from(sequence) << SEQUENCE_SHIFT | early | draw::segment_kind(flags) as u64
}

#[inline(always)]
fn behind_ipv4(ctx: &SkReuseportContext, header: u32) -> Option<u32> {
    let [_, protocol, ..] = load(ctx, 8)?;
    (protocol == IPPROTO_TCP).then_some(header)
}

/// The offset of TCP in an IPv6 packet (RFC 8200, section 4; RFC 4302 for 51).
#[inline(always)]
fn behind_extensions(ctx: &SkReuseportContext, first: u8) -> Option<u32> {
    let (mut next, mut at) = (first, IPV6_BYTES);
    for _ in 0..EXTENSIONS {
        if next == IPPROTO_TCP {
            return Some(at);
        }
        let [then, length, offset, more, ..] = load(ctx, at)?;
        at += match next {
            0 | 43 | 60 => (u32::from(length) + 1) * 8,
            51 => (u32::from(length) + 2) * 4,
            // Only the first fragment has the header.
            44 if u16::from_be_bytes([offset, more]) & 0xfff8 == 0 => 8,
            _ => return None,
        };
        next = then;
    }
    None
}

/// Whether the packet is IPv6.
#[inline(always)]
pub fn is_v6(ctx: &SkReuseportContext) -> bool {
    ctx.eth_protocol() == u32::from(ETH_P_IPV6.to_be())
}

/// Eight octets of the packet, at `offset` from its network header, wherever its data begin. Never
/// more at once: the compiler would clear them in a loop, which the kernel does not take from everybody.
#[inline(always)]
pub fn load(ctx: &SkReuseportContext, offset: u32) -> Option<[u8; 8]> {
    let mut octets = 0u64;
    // SAFETY: the helper writes eight octets to our stack, or zeroes them and fails.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            (&raw mut octets).cast(),
            8,
            BPF_HDR_START_NET,
        )
    };
    (result == 0).then_some(octets.to_ne_bytes())
}
