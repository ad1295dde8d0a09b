//! Connections that migrate: an open one is counted for the slot whose worker will accept it, no
//! longer for the one whose listener closed.
//!
//! The kernel holds the connection's lock meanwhile (`inet_csk_listen_stop`), so it does not end here.

use aya_ebpf::{helpers::generated::bpf_get_socket_cookie, programs::SkReuseportContext};
use balancer_common::{
    load,
    record::{LoadRecord, SlotCounters, Tag},
};

use crate::{maps, queue, settings};

const TCP_NEW_SYN_RECV: u32 = 12;

/// Counts a connection that moves to a slot. A half-open one is none yet: it will inherit its new
/// listener's tag.
#[inline(always)]
pub fn count(ctx: &SkReuseportContext, slot: u32, counters: &mut SlotCounters) {
    counters.migrated += 1;
    if !settings::is_counted() {
        return;
    }
    let (Some(connection), Some(to)) = (ctx.migrating_sk(), maps::load(slot)) else { return };
    // SAFETY: the kernel checked it against null; `state` is among what may be read.
    let state = unsafe { (*connection.sock).state };
    if state == TCP_NEW_SYN_RECV {
        return;
    }
    // Whatever its state.
    queue::enter(to);
    counters.moved += 1;
    if !load::is_open(state) {
        return;
    }
    // SAFETY: both are sockets of the kernel's, which live until the program ends.
    let (cookie, listener) = unsafe {
        (bpf_get_socket_cookie(connection.sock.cast()), bpf_get_socket_cookie(ctx.sk().sock.cast()))
    };
    let Some(from) = tenancy(listener) else { return };
    // It waited already when counting began.
    if maps::moved(cookie).is_some_and(|tag| tag.tenant == 0) {
        return;
    }
    let tag = Tag::of(to.tenant, settings::group(), slot, 1);
    // Without a note of where it is, its end would be counted where it was: so it stays there.
    if !maps::set_moved(cookie, tag) {
        return;
    }
    from.moved = 1;
    maps::add(&mut from.count, load::OPEN.wrapping_neg());
    maps::add(&mut to.count, load::OPEN);
}

/// The record of a listener's slot, while that is its own.
#[inline(always)]
fn tenancy(listener: u64) -> Option<&'static mut LoadRecord> {
    let record = maps::load(maps::slot_of_listener(listener)?)?;
    (record.tenant == listener).then_some(record)
}
