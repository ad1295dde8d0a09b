//! Tells userspace that a listener has come or gone, whoever's it is.

use aya_ebpf::{
    EbpfContext as _, btf_maps::RingBuf, macros::btf_map, programs::BtfTracePointContext,
};
use balancer_ebpf::LISTENS_BYTES;

const TCP_LISTEN: i32 = 10;

#[btf_map]
static LISTENS: RingBuf<u32, { LISTENS_BYTES as usize }> = RingBuf::new();

/// Submits the process in whose name a socket begins to listen, or ends. The numbers of the old and
/// new state are all that is looked at: nothing here depends on a kernel's structures.
#[inline(always)]
pub fn tell(ctx: &BtfTracePointContext) {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if old == TCP_LISTEN || new == TCP_LISTEN {
        // Where the buffer is full, its reader has yet to be told of others, and then looks anyway.
        let _ = LISTENS.output(ctx.tgid(), 0);
    }
}
