//! The programs, one a policy: each says where its draws come from, and [`steer`] does the rest. And
//! one that watches listeners come and go.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "the BPF target has no stable fetch_add, see `maps::tick`")]

mod client;
mod listens;
mod maps;
mod steer;

use aya_ebpf::{
    bindings::sk_action::SK_PASS,
    macros::{btf_tracepoint, sk_reuseport},
    programs::{BtfTracePointContext, SkReuseportContext},
};
use balancer_ebpf::draw;

use crate::steer::steer;

/// `hash`: the packet's 4-tuple, over a table by weight.
#[sk_reuseport(migrate)]
fn bal_hash(ctx: SkReuseportContext) -> u32 {
    let hash = ctx.hash();
    steer(&ctx, |attempt, len| Some(draw::scale(draw::rehash(hash, attempt), len)))
}

/// `round-robin`: a shared counter, over a table with each slot once.
#[sk_reuseport(migrate)]
fn bal_round_robin(ctx: SkReuseportContext) -> u32 {
    steer(&ctx, |_, len| Some(draw::wrap(maps::tick()?, len)))
}

/// `weighted`: a shared counter, over a table that interleaves the slots by weight.
#[sk_reuseport(migrate)]
fn bal_weighted(ctx: SkReuseportContext) -> u32 {
    steer(&ctx, |_, len| Some(draw::wrap(maps::tick()?, len)))
}

/// `random`: a random number, over a table by weight.
#[sk_reuseport(migrate)]
fn bal_random(ctx: SkReuseportContext) -> u32 {
    let hash = ctx.hash();
    steer(&ctx, |_, len| Some(draw::scale(draw::random(maps::random_state()?, hash), len)))
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

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
