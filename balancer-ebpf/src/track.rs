//! The tracker: counts each member's open connections by the kernel's own event of every change of a
//! socket's state. A connection inherits its listener's [`Place`], so the kernel tells whose it is.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_sk_storage_get, programs::BtfTracePointContext};
use balancer_ebpf::{
    load::{self, Change},
    record::Place,
};

use crate::maps;

/// Counts a socket that changes its state, if it is one of ours.
#[inline(always)]
pub fn track(ctx: &BtfTracePointContext) {
    let socket: *mut c_void = ctx.arg(0);
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let map = maps::slot_of();
    // SAFETY: the kernel answers with the value kept with that socket, or null.
    let place = unsafe {
        bpf_sk_storage_get(map, socket, core::ptr::null_mut(), 0).cast::<Place>().as_mut()
    };
    let Some(place) = place else { return };
    let address = socket as u64;
    match load::change(old, new, place.counted != 0) {
        Change::None => {}
        Change::Opened => {
            place.counted = 1;
            let slot = if is_dead(place.slot) { maps::moved(address) } else { None };
            count(slot.unwrap_or(place.slot), load::OPEN.wrapping_sub(load::PENDING));
        }
        Change::Ended => {
            place.counted = 0;
            let slot = maps::take_moved(address).unwrap_or(place.slot);
            count(slot, load::OPEN.wrapping_neg());
        }
        Change::Gone => {
            if is_dead(place.slot) {
                maps::take_moved(address);
            }
        }
        Change::ListenerEnds => maps::set_closing(address, place.slot),
    }
}

/// Whether connections of a slot may have moved before they were open. Nearly never, so nearly nobody
/// pays for the look where to.
#[inline(always)]
fn is_dead(slot: u32) -> bool {
    maps::load(slot).is_some_and(|record| record.weight == 0)
}

#[inline(always)]
fn count(slot: u32, change: u64) {
    if let Some(record) = maps::load(slot) {
        maps::add(&mut record.count, change);
    }
}
