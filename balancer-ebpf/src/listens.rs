//! Tells agents that a socket has begun to listen on their port, in any process. The kernel calls back
//! once a `listen`, when the socket can be found (`__inet_listen_sk`).

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, RingBuf},
    macros::btf_map,
    programs::SockOpsContext,
};
use balancer_common::{LISTENS_BYTES, MAX_WATCHES, record::Watch};

type Listens = RingBuf<u32, { LISTENS_BYTES as usize }>;

// Each agent makes its own of the first and puts it into the last.
#[btf_map]
static LISTENS: Listens = Listens::new();

#[btf_map]
static WATCHES: Array<Watch, { MAX_WATCHES as usize }> = Array::new();

#[btf_map]
static WATCHERS: ArrayOfMaps<Listens, { MAX_WATCHES as usize }> = ArrayOfMaps::new();

/// Wakes each agent that watches the port.
#[inline(always)]
pub fn tell(ctx: &SockOpsContext) {
    let port = ctx.local_port();
    for index in 0..MAX_WATCHES {
        let Some(watch) = WATCHES.get(index) else { break };
        if watch.pid != 0
            && watch.port == port
            && let Some(ring) = WATCHERS.get(index)
        {
            // If the buffer is full, its reader has yet to be told of others, and then looks anyway.
            let _ = ring.output(port, 0);
        }
    }
}
