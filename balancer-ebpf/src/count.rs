//! Counts each member's connections, for all groups of the host, out of the kernel's own callbacks to
//! `sock_ops` programs. A connection inherits its listener's [`Place`], so the kernel tells whose it is,
//! whichever process accepts it or is handed it.
//!
//! Such a program is never skipped, as a tracing program is while another of its kind runs on the same
//! CPU (`bpf_prog.active`): so nothing has to be set right afterwards.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_LISTEN_CB,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get, bpf_sock_ops_cb_flags_set},
    programs::{SockContext, SockOpsContext},
};
use balancer_common::{
    load,
    record::{LoadRecord, OPEN_BEFORE, Place, Tag},
};

use crate::{early::jiffies, listens, maps, queue, request};

/// What the kernel calls back for. Nothing is answered, so that the answers of other programs stand.
#[inline(always)]
pub fn count(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established(ctx),
        BPF_SOCK_OPS_STATE_CB if !load::is_open(ctx.arg(1)) => {
            if let Some(place) = place(socket(ctx)) {
                // SAFETY: the kernel's context.
                end(place, || unsafe { bpf_get_socket_cookie(ctx.as_ptr()) });
            }
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => listens::tell(ctx),
        _ => {}
    }
}

/// Counts off a connection that its process closes: those that were open before counting began, of
/// whose changes of state nobody is told.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    if let Some(place) = place(ctx.sock.cast()) {
        // SAFETY: the kernel's context.
        end(place, || unsafe { bpf_get_socket_cookie(ctx.as_ptr()) });
    }
}

/// A handshake is through. By TCP Fast Open that is told with the SYN, when the connection enters the
/// queue.
#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let Some(place) = place(socket(ctx)) else { return };
    if place.tag.counted != 0 {
        return;
    }
    place.tag.counted = 1;
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: the kernel's context. The flags that others have set stay.
    unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, flags as i32) };
    let Some(record) = record(place.tag) else { return };
    let reserved = load::pending(record.count) > 0;
    if !reserved {
        let now = load::lower(jiffies()).max(1);
        record.unasked += u32::from(load::is_unasked(record.count, record.chosen, now));
        // From now on it is known that none is under way from before.
        if record.chosen == 0 {
            record.chosen = now;
        }
    }
    let place_taken = if reserved { load::PENDING.wrapping_neg() } else { 0 };
    maps::add(&mut record.count, load::OPEN.wrapping_add(place_taken));
    queue::enter(record);
    let epoch = maps::epoch();
    if epoch != 0 {
        request::established(place, record, epoch);
    }
}

/// Counts a connection off where it belongs. One that ends late, when its slot has another tenant
/// already, is counted there no more.
#[inline(always)]
fn end(place: &mut Place, cookie: impl FnOnce() -> u64) {
    if place.tag.counted == 0 {
        return;
    }
    if place.tag.counted == OPEN_BEFORE
        && let Some(before) = maps::before()
    {
        maps::add(before, 1u64.wrapping_neg());
    }
    place.tag.counted = 0;
    let mut found = record(place.tag);
    if found.as_ref().is_none_or(|record| record.moved != 0)
        && let Some(elsewhere) = maps::take_moved(cookie())
    {
        found = record(elsewhere);
    }
    if let Some(record) = found.as_mut() {
        maps::add(&mut record.count, load::OPEN.wrapping_neg());
    }
    let epoch = maps::epoch();
    if epoch != 0 {
        let first = record(place.tag);
        request::ended(place, first, found, epoch);
    }
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> *mut c_void {
    // SAFETY: a field of the kernel's context.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.cast() }
}

#[inline(always)]
pub fn place(socket: *mut c_void) -> Option<&'static mut Place> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: the kernel answers with the value kept with that socket, or null.
    unsafe {
        bpf_sk_storage_get(maps::place_of(), socket, core::ptr::null_mut(), 0)
            .cast::<Place>()
            .as_mut()
    }
}

/// The record of a tenant, while it is there.
#[inline(always)]
pub fn record(tag: Tag) -> Option<&'static mut LoadRecord> {
    let record = maps::load_of(tag.group.into(), tag.slot.into())?;
    (record.tenant == tag.tenant && tag.tenant != 0).then_some(record)
}
