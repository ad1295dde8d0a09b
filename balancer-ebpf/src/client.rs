//! The client of a choice: its address, and the log line. With the level below debug the verifier
//! removes the line: the level is a constant of the loaded program.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::bpf_skb_load_bytes_relative, programs::SkReuseportContext,
};
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};
use balancer_ebpf::address::Address;

const ETH_P_IPV6: u16 = 0x86dd;
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
    if ctx.eth_protocol() == u32::from(ETH_P_IPV6.to_be()) {
        Address::v6(load(ctx, IPV6_SOURCE).unwrap_or_default())
    } else {
        Address::v4(load(ctx, IPV4_SOURCE).unwrap_or_default())
    }
}

/// Logs that a slot was chosen: client, position, slot.
#[inline(always)]
pub fn log(ctx: &SkReuseportContext, position: u32, slot: u32) {
    if !level_enabled(Level::Debug) {
        return;
    }
    let port = source_port(ctx);
    // Of both families in one form, because a log line is a lot of code.
    let client: [u8; 16] = if ctx.eth_protocol() == u32::from(ETH_P_IPV6.to_be()) {
        load(ctx, IPV6_SOURCE).unwrap_or_default()
    } else {
        let [a, b, c, d]: [u8; 4] = load(ctx, IPV4_SOURCE).unwrap_or_default();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    };
    debug!(ctx, "client [{:i}]:{} position {} slot {}", client, port, position, slot);
}

/// Source port of the TCP or UDP header; 0 for a migration, which has no packet.
#[inline(always)]
fn source_port(ctx: &SkReuseportContext) -> u16 {
    let header = ctx.data();
    if header + size_of::<u16>() > ctx.data_end() {
        return 0;
    }
    // SAFETY: the bound was checked just now; a header may be unaligned, so octet by octet.
    u16::from_be_bytes(unsafe { *(header as *const [u8; 2]) })
}

/// Octets of the network header, at `offset` from its start.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "asserted to be small")]
fn load<const N: usize>(ctx: &SkReuseportContext, offset: u32) -> Option<[u8; N]> {
    const { assert!(N <= 16) };
    let mut octets = [0; N];
    // SAFETY: the helper writes N octets to our stack, or zeroes them and fails.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            (&raw mut octets).cast(),
            N as u32,
            BPF_HDR_START_NET,
        )
    };
    (result == 0).then_some(octets)
}
