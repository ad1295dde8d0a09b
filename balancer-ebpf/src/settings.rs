//! What userspace sets at load, and the verifier knows as constants: a branch that a setting turns
//! off is not there, and what it would need (CAP_PERFMON) is not asked for.

use balancer_common::{
    flow::Timeouts,
    load::Source,
    settings::{Offsets, Settings},
};

#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    stall_ticks: 0,
    source: 0,
    udp: 0,
    counted: 0,
    looks: 0,
    group: 0,
    cpus: 1,
    max_share: 0,
    flow_sets: 0,
    flow_assured: 0,
    flow_unassured: 0,
    reserved: 0,
    flow_seed: 0,
};

/// Of the request tracker: which of all that there were.
#[unsafe(no_mangle)]
static EPOCH: u32 = 0;

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    sockets: 0,
    backlog: 0,
    half_open: 0,
    received: 0,
    reading: 0,
    buffered: 0,
    buffer: 0,
    group: 0,
    cookie_sent: 0,
    packet_length: 0,
    packet: 0,
};

/// Reads a field of one of the two.
macro_rules! setting {
    ($static:ident . $field:ident) => {{
        // SAFETY: it is ours and aligned. Volatile, or the compiler would take the value that
        // stands here for the one that userspace sets.
        unsafe { (&raw const $static.$field).read_volatile() }
    }};
}

/// How long a queue may stand still, in ticks; `None` for ever.
#[inline(always)]
pub fn stall_ticks() -> Option<u32> {
    let ticks = setting!(SETTINGS.stall_ticks);
    (ticks != 0).then_some(ticks)
}

/// A `load::Source`, as a number.
#[inline(always)]
pub fn source() -> u32 {
    setting!(SETTINGS.source)
}

/// Whether the load is connections, of the slot or of its worker.
#[inline(always)]
pub fn goes_by_count() -> bool {
    source() == Source::Connections as u32 || source() == Source::ServiceConnections as u32
}

/// Whether the load is that of a worker in all groups of its service.
#[inline(always)]
pub fn is_of_service() -> bool {
    source() == Source::ServiceConnections as u32 || source() == Source::ServiceRequests as u32
}

/// Whether members are UDP sockets.
#[inline(always)]
pub fn is_udp() -> bool {
    setting!(SETTINGS.udp) != 0
}

/// Whether connections are counted.
#[inline(always)]
pub fn is_counted() -> bool {
    setting!(SETTINGS.counted) != 0
}

/// Whether the kernel's memory may be read.
#[inline(always)]
pub fn looks() -> bool {
    setting!(SETTINGS.looks) != 0
}

/// The group's index among those of the host.
#[inline(always)]
pub fn group() -> u32 {
    setting!(SETTINGS.group)
}

/// CPUs that the kernel may ever have.
#[inline(always)]
pub fn cpus() -> u32 {
    setting!(SETTINGS.cpus)
}

/// The largest share of the choices that a member gets, in percent; 0 for no limit.
#[inline(always)]
pub fn max_share() -> u32 {
    setting!(SETTINGS.max_share)
}

/// Sets of the table of flows; 0 where each datagram is a choice.
#[inline(always)]
pub fn flow_sets() -> u32 {
    setting!(SETTINGS.flow_sets)
}

/// How long flows last in which nobody sends.
#[inline(always)]
pub fn flow_timeouts() -> Timeouts {
    Timeouts {
        assured: setting!(SETTINGS.flow_assured),
        unassured: setting!(SETTINGS.flow_unassured),
    }
}

/// What the keys of flows are made with.
#[inline(always)]
pub fn flow_seed() -> u64 {
    setting!(SETTINGS.flow_seed)
}

/// The epoch of this request tracker.
#[inline(always)]
pub fn epoch() -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const EPOCH).read_volatile() }
}

/// Where the kernel keeps what.
pub mod offset {
    use super::OFFSETS;

    macro_rules! offsets {
        ($($field:ident),+) => {
            $(#[inline(always)]
            pub fn $field() -> u64 {
                u64::from(setting!(OFFSETS.$field))
            })+
        };
    }

    offsets!(
        sockets,
        backlog,
        half_open,
        received,
        reading,
        buffered,
        buffer,
        group,
        cookie_sent,
        packet_length,
        packet
    );
}
