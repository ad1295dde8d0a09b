//! The programs, one a policy: each says where its draws come from, and [`steer`] does the rest. And
//! one that watches listeners come and go.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the BPF target has no stable fetch_add, see `maps::tick`")]

mod client;
mod lightest;
mod listens;
mod maps;
mod moved;
mod queue;
mod segment;
mod settings;
mod steer;
mod track;

use aya_ebpf::{
    bindings::sk_action::SK_PASS,
    helpers::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, sk_reuseport},
    programs::{BtfTracePointContext, SkReuseportContext},
};
use balancer_ebpf::draw;

use crate::{
    segment::Segment,
    steer::{at, steer},
};

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
    let segment = Segment::of(ctx);
    steer(ctx, segment, |live, attempt, _| {
        if attempt > 0 || cpu == NO_CPU {
            return at(live, draw::scale(draw::rehash(hash, attempt), live.positions));
        }
        let each = draw::positions_each(live.positions, settings::cpus());
        let turn = if each > 1 { maps::turn(segment.counter())? } else { 0 };
        at(live, draw::of_cpu(cpu, each, turn))
    })
}

/// `round-robin` and `weighted`: a shared counter, over a table with each slot once or one that
/// interleaves the slots by weight.
#[sk_reuseport(migrate)]
fn bal_round_robin(ctx: SkReuseportContext) -> u32 {
    let segment = Segment::of(&ctx);
    steer(&ctx, segment, |live, _, _| {
        at(live, draw::wrap(maps::tick(segment.counter())?, live.positions))
    })
}

/// `random`: a random number, over a table by weight.
#[sk_reuseport(migrate)]
fn bal_random(ctx: SkReuseportContext) -> u32 {
    let hash = ctx.hash();
    steer(&ctx, Segment::of(&ctx), |live, _, _| {
        at(live, draw::scale(draw::random(maps::random_state()?, hash), live.positions))
    })
}

/// `least-connections` and `shortest-queue`: the member with the lowest load by weight.
#[sk_reuseport(migrate)]
fn bal_least(ctx: SkReuseportContext) -> u32 {
    let segment = Segment::of(&ctx);
    steer(&ctx, segment, |live, attempt, now| lightest::of_all(segment, live, attempt, now))
}

/// `two-choices`: the one with the lower load by weight of two drawn at random, over a table by weight.
#[sk_reuseport(migrate)]
fn bal_two_choices(ctx: SkReuseportContext) -> u32 {
    let (hash, segment) = (ctx.hash(), Segment::of(&ctx));
    steer(&ctx, segment, |live, _, _| lightest::of_two(segment, live, hash))
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

/// Not a policy: wakes the agent of `attach` when a listener comes or goes.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn bal_listen(ctx: BtfTracePointContext) {
    listens::tell(&ctx);
}

/// Not a policy: counts each member's open connections.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn bal_track(ctx: BtfTracePointContext) {
    track::track(&ctx);
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
