//! Connections that migrate: an open one is counted for the slot whose worker will accept it, no
//! longer for the one whose listener closed.

use aya_ebpf::programs::SkReuseportContext;
use balancer_ebpf::load;

use crate::{maps, settings};

const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_RECV: u32 = 3;
const TCP_CLOSE_WAIT: u32 = 8;

/// Counts a connection that moves to a slot where the tracker counts. Half-open ones are none yet: they
/// will inherit their new listener's place; unless they are sockets already, as with TCP Fast Open, which
/// the tracker will find to have moved when they are open.
#[inline(always)]
pub fn count(ctx: &SkReuseportContext, slot: u32) {
    if !settings::is_tracked() {
        return;
    }
    let Some(connection) = ctx.migrating_sk() else { return };
    // SAFETY: the kernel checked it against null; `state` is among what may be read.
    let state = unsafe { (*connection.sock).state };
    if state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT && state != TCP_SYN_RECV {
        return;
    }
    // The tracker noted whose listener this was when it closed.
    let Some(from) = maps::closing(ctx.sk().sock as u64) else { return };
    maps::set_moved(connection.sock as u64, slot);
    let Some(left) = maps::load(from) else { return };
    if state == TCP_SYN_RECV {
        left.weight = 0;
        return;
    }
    maps::add(&mut left.count, load::OPEN.wrapping_neg());
    if let Some(record) = maps::load(slot) {
        maps::add(&mut record.count, load::OPEN);
    }
}
