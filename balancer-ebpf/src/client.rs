//! The client of a choice: its address, and the log line. With the level below debug the verifier
//! removes the line: the level is a constant of the loaded program.

use aya_ebpf::programs::SkReuseportContext;
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};
use balancer_common::address::Address;

use crate::packet::{is_v6, load};

const AF_INET: u32 = 2;
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;

/// Who sent the packet; of a connection that migrates, which has none, who is at its other end.
#[inline(always)]
pub fn address(ctx: &SkReuseportContext) -> Address {
    if let Some(connection) = ctx.migrating_sk() {
        let socket = connection.sock;
        // SAFETY: the kernel checked it against null, and this is among what may be read of it, word by
        // word; volatile, or the compiler would read two at once.
        return unsafe {
            if (&raw const (*socket).family).read_volatile() == AF_INET {
                Address::v4((&raw const (*socket).dst_ip4).read_volatile().to_ne_bytes())
            } else {
                let word = |at: usize| (&raw const (*socket).dst_ip6[at]).read_volatile();
                Address::of_words([word(0), word(1), word(2), word(3)])
            }
        };
    }
    if is_v6(ctx) { Address::v6(v6(ctx)) } else { Address::v4(v4(ctx)) }
}

/// The halves of an IPv6 packet's source address.
#[inline(always)]
fn v6(ctx: &SkReuseportContext) -> [[u8; 8]; 2] {
    let half = |at| load(ctx, IPV6_SOURCE + at).unwrap_or_default();
    [half(0), half(8)]
}

/// The source address of an IPv4 packet.
#[inline(always)]
fn v4(ctx: &SkReuseportContext) -> [u8; 4] {
    let [a, b, c, d, ..] = load(ctx, IPV4_SOURCE).unwrap_or_default();
    [a, b, c, d]
}

/// Logs that a slot was chosen: client, position, slot.
#[inline(always)]
pub fn log(ctx: &SkReuseportContext, position: u32, slot: u32) {
    if !level_enabled(Level::Debug) {
        return;
    }
    let port = source_port(ctx);
    // Of both families in one form, because a log line is a lot of code.
    let client: [u8; 16] = if is_v6(ctx) {
        let [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]] = v6(ctx);
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    } else {
        let [a, b, c, d] = v4(ctx);
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    };
    debug!(ctx, "client [{:i}]:{} position {} slot {}", client, port, position, slot);
}

/// Source port of the TCP or UDP header; 0 for a migration, which has no packet.
#[inline(always)]
pub fn source_port(ctx: &SkReuseportContext) -> u16 {
    let header = ctx.data();
    if header + size_of::<u16>() > ctx.data_end() {
        return 0;
    }
    // SAFETY: the bound was checked just now; a header may be unaligned, so octet by octet.
    u16::from_be_bytes(unsafe { *(header as *const [u8; 2]) })
}
