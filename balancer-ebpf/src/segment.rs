//! What kind of TCP segment is chosen for.

use aya_ebpf::programs::SkReuseportContext;
use balancer_ebpf::draw;

const IPPROTO_TCP: u32 = 6;
const FLAGS: usize = 13;

/// A segment of a connection that is gone.
#[inline(always)]
pub fn is_straggler(ctx: &SkReuseportContext) -> bool {
    flags(ctx).is_some_and(|flags| !draw::opens_connection(flags))
}

/// A segment that begins a connection, and not one that brings a cookie back.
#[inline(always)]
pub fn is_syn(ctx: &SkReuseportContext) -> bool {
    flags(ctx).is_some_and(draw::begins_connection)
}

/// `None` for UDP, and for a migration, which has no packet.
#[inline(always)]
fn flags(ctx: &SkReuseportContext) -> Option<u8> {
    let header = ctx.data();
    if ctx.ip_protocol() != IPPROTO_TCP || header + FLAGS + 1 > ctx.data_end() {
        return None;
    }
    // SAFETY: the bound was checked just now, and is what the verifier goes by.
    Some(unsafe { *((header + FLAGS) as *const u8) })
}
