//! The programs. One for each policy: it says where its draws come from, and [`steer`] does the rest. Two
//! that count connections, and three that track requests, for all groups of the host.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the BPF target has no stable fetch_add, see `maps::tick`")]

mod client;
mod count;
mod drawn;
mod early;
mod flow;
mod least_loaded;
mod listens;
mod maps;
mod migrate;
mod packet;
mod queue;
mod request;
mod service;
mod settings;
mod share;
mod steer;

use aya_ebpf::{
    bindings::sk_action::SK_PASS,
    helpers::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, cgroup_sock, cgroup_sock_addr, sk_reuseport, sock_ops},
    programs::{
        BtfTracePointContext, SkReuseportContext, SockAddrContext, SockContext, SockOpsContext,
    },
};
use balancer_common::draw;

use crate::{drawn::at, packet::Packet, steer::steer};

/// `hash`: the packet's 4-tuple, over a table by weight.
#[sk_reuseport(migrate)]
fn bal_hash(ctx: SkReuseportContext) -> u32 {
    by_cpu_or_hash(&ctx, NO_CPU, ctx.hash())
}

/// `sticky`: the client's address alone, over a table in which a member that comes or goes changes
/// little for others (Maglev).
#[sk_reuseport(migrate)]
fn bal_sticky(ctx: SkReuseportContext) -> u32 {
    by_cpu_or_hash(&ctx, NO_CPU, client::address(&ctx).hash())
}

/// `cpu`: the CPU that received the packet, over a table with positions of each CPU's own. Where nobody
/// there can be chosen, as `hash`.
#[sk_reuseport(migrate)]
fn bal_cpu(ctx: SkReuseportContext) -> u32 {
    // SAFETY: the helper only reads a number.
    by_cpu_or_hash(&ctx, unsafe { bpf_get_smp_processor_id() }, ctx.hash())
}

/// What no CPU is.
const NO_CPU: u32 = u32::MAX;

/// One function for three policies, for the object's size.
#[inline(never)]
fn by_cpu_or_hash(ctx: &SkReuseportContext, cpu: u32, hash: u32) -> u32 {
    let packet = Packet::of(ctx);
    steer(ctx, packet, |live, attempt| {
        if attempt > 0 || cpu == NO_CPU {
            return at(live, draw::scale(draw::rehash(hash, attempt), live.positions));
        }
        let each = draw::positions_each(live.positions, settings::cpus());
        let turn = if each > 1 { maps::turn(packet.counter())? } else { 0 };
        at(live, draw::of_cpu(cpu, each, turn))
    })
}

/// `round-robin` and `weighted`: a shared counter, over a table with each slot once or one that
/// interleaves the slots by weight.
#[sk_reuseport(migrate)]
fn bal_round_robin(ctx: SkReuseportContext) -> u32 {
    let packet = Packet::of(&ctx);
    steer(&ctx, packet, |live, _| {
        at(live, draw::wrap(maps::tick(packet.counter())?, live.positions))
    })
}

/// `random`: a random number, over a table by weight.
#[sk_reuseport(migrate)]
fn bal_random(ctx: SkReuseportContext) -> u32 {
    let hash = ctx.hash();
    steer(&ctx, Packet::of(&ctx), |live, _| {
        at(live, draw::scale(draw::random(maps::random_state()?, hash), live.positions))
    })
}

/// `least-connections`, `least-requests` and `shortest-queue`: the member with the lowest load by weight.
#[sk_reuseport(migrate)]
fn bal_least(ctx: SkReuseportContext) -> u32 {
    let packet = Packet::of(&ctx);
    steer(&ctx, packet, |live, attempt| least_loaded::of_all(packet, live, attempt))
}

/// `two-choices`: the one with the lower load by weight of two drawn at random, over a table by weight.
#[sk_reuseport(migrate)]
fn bal_two_choices(ctx: SkReuseportContext) -> u32 {
    // In this order: the verifier takes the context only as it came.
    let hash = ctx.hash();
    let packet = Packet::of(&ctx);
    steer(&ctx, packet, |live, _| least_loaded::of_two(packet, live, hash))
}

/// Reference for measurements: chooses nothing, so the kernel's hash does.
#[sk_reuseport(migrate)]
fn bal_noop(_ctx: SkReuseportContext) -> u32 {
    SK_PASS
}

/// Reference for measurements: slot 0, by the helper alone.
#[sk_reuseport(migrate)]
fn bal_fixed(ctx: SkReuseportContext) -> u32 {
    let _ = maps::select(&ctx, 0);
    SK_PASS
}

/// Not a policy: counts each member's open connections, and tells agents of new listeners.
#[sock_ops]
fn bal_count(ctx: SockOpsContext) -> u32 {
    count::count(&ctx);
    1
}

/// Not a policy: counts off connections that were open before [`bal_count`] was there.
#[cgroup_sock(sock_release)]
fn bal_release(ctx: SockContext) -> i32 {
    count::release(&ctx);
    1
}

/// Not a policy: a worker sends a datagram to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
fn bal_answered4(ctx: SockAddrContext) -> i32 {
    flow::answered(&ctx, true);
    1
}

/// Not a policy: the same to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
fn bal_answered6(ctx: SockAddrContext) -> i32 {
    flow::answered(&ctx, false);
    1
}

/// Not a policy: of the request tracker, data came.
#[btf_tracepoint(function = "tcp_probe")]
fn bal_arrived(ctx: BtfTracePointContext) -> i32 {
    request::arrived(&ctx);
    0
}

/// Not a policy: of the request tracker, a worker read.
#[btf_tracepoint(function = "sock_recv_length")]
fn bal_read(ctx: BtfTracePointContext) -> i32 {
    request::read(&ctx);
    0
}

/// Not a policy: of the request tracker, a worker wrote.
#[btf_tracepoint(function = "sock_send_length")]
fn bal_wrote(ctx: BtfTracePointContext) -> i32 {
    request::wrote(&ctx);
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
