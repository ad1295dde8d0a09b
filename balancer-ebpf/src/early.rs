//! Early looks: a packet for which a choice was made before its delivery gets the same choice then, and
//! at each further look. All come on one CPU within one batch of packets.

use aya_ebpf::{helpers::bpf_jiffies64, programs::SkReuseportContext};
use balancer_common::{
    load::lower,
    record::{EARLY_LOOKS, EarlyLook},
};

use crate::{maps, packet::Packet};

/// How long a look is remembered, in jiffies; a client sends its SYN again after a second, or 200 ms at
/// the least. Never 0 jiffies, which would be a kernel without time.
const LASTS: u64 = 16;

/// Now, in jiffies: a load and no call.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper only reads a counter.
    unsafe { bpf_jiffies64() }
}

/// The slot that was chosen for the packet before.
#[inline(always)]
pub fn recall(ctx: &SkReuseportContext, packet: Packet) -> Option<u32> {
    let last = maps::read(maps::cursor(maps::LOOKED_EARLY)?);
    // Where nobody looks early, that is all that it costs.
    if last == 0 || jiffies().wrapping_sub(last) >= LASTS {
        return None;
    }
    let found = bal_recall(packet.key(ctx.hash()), packet.is_early().into());
    (found != 0).then(|| found - 1)
}

/// Notes what was chosen, if the packet is still to be delivered.
#[inline(always)]
pub fn note(ctx: &SkReuseportContext, packet: Packet, slot: u32) {
    if packet.is_early() {
        bal_note(packet.key(ctx.hash()), slot);
    }
}

/// The slot, plus one, that was chosen for a packet; 0 for none. The delivery is the last look.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_recall(packet: u64, keep: u32) -> u32 {
    let now = jiffies();
    for index in 0..EARLY_LOOKS {
        let Some(look) = maps::early(index) else { break };
        let age = lower(now).wrapping_sub(look.at);
        if look.packet == packet && look.at != 0 && u64::from(age) < LASTS {
            if keep == 0 {
                look.at = 0;
            }
            return look.slot + 1;
        }
    }
    0
}

/// Notes a look; returns nothing of use.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bal_note(packet: u64, slot: u32) -> u32 {
    let (Some(count), Some(last)) = (maps::early(EARLY_LOOKS), maps::cursor(maps::LOOKED_EARLY))
    else {
        return 0;
    };
    let now = jiffies();
    *last = now;
    let index = lower(count.packet % u64::from(EARLY_LOOKS));
    count.packet += 1;
    if let Some(look) = maps::early(index) {
        // Never 0, which is for none.
        *look = EarlyLook { packet, at: lower(now).max(1), slot };
    }
    0
}
