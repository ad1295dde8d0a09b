//! What is chosen for: which kind of TCP segment, or a connection that migrates.

use aya_ebpf::programs::SkReuseportContext;
use balancer_ebpf::draw;

const IPPROTO_TCP: u32 = 6;
const FLAGS: usize = 13;

/// The flags of a TCP segment, or one of the two below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment(u16);

/// A datagram.
const NONE: Segment = Segment(0);

/// A connection that migrates, whatever the segment that it does so with.
const MIGRATES: Segment = Segment(1 << 8);

impl Segment {
    /// What the kernel asks for.
    #[inline(always)]
    pub fn of(ctx: &SkReuseportContext) -> Self {
        if ctx.migrating_sk().is_some() {
            return MIGRATES;
        }
        let header = ctx.data();
        if ctx.ip_protocol() != IPPROTO_TCP || header + FLAGS + 1 > ctx.data_end() {
            return NONE;
        }
        // SAFETY: the bound was checked just now, and is what the verifier goes by.
        Self(unsafe { *((header + FLAGS) as *const u8) }.into())
    }

    /// Whether it is no segment, but a connection that migrates.
    #[inline(always)]
    pub fn migrates(self) -> bool {
        self == MIGRATES
    }

    /// One of a connection that is gone.
    #[inline(always)]
    pub fn is_straggler(self) -> bool {
        !draw::opens_connection(self.flags())
    }

    /// One that begins a connection, and not one that brings a cookie back.
    #[inline(always)]
    pub fn is_syn(self) -> bool {
        draw::begins_connection(self.flags())
    }

    /// Which of two counters says whose turn it is.
    #[inline(always)]
    pub fn counter(self) -> u32 {
        draw::counter(self.flags())
    }

    #[inline(always)]
    fn flags(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}
