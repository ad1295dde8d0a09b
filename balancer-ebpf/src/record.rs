//! The records in the maps. Each is plain old data without padding, and its size is asserted:
//! the two halves, and two builds of balancer that share pins, must agree on it.

use crate::MAX_SLOTS;

/// What one slot was given, per CPU, since its member got it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotCounters {
    /// New connections (for UDP: datagrams) for which the slot was chosen.
    pub selected: u64,
    /// Connections that moved here out of the queue of a listener that closed.
    pub migrated: u64,
}

/// What the programs left to the kernel's hash, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Misses {
    /// Choices left to the kernel, because no slot of the table had a socket.
    pub fallback: u64,
    /// Slots that the kernel refused for another reason than being empty, and choices for which a
    /// map could not be read. Not zero means a defect: of balancer, or of who wrote its maps.
    pub errors: u64,
}

/// Who a group is and how it is steered; written by userspace alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GroupRecord {
    /// [`crate::LAYOUT_VERSION`] of the build that made it.
    pub version: u32,
    /// Number of the policy, as userspace counts them.
    pub policy: u32,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Start of the agent in clock ticks since boot, to tell it from a later process of its PID.
    pub agent_start: u64,
    /// The process that supervises the workers, or watches for them; 0 for none.
    pub agent_pid: u32,
    /// aya-log level that the programs are loaded with; 0 for none.
    pub log_level: u8,
    /// 1 where the sockets are other programs' own.
    pub adopted: u8,
    /// 1 where a program of somebody else was detached to make room.
    pub replaced: u8,
    /// Zero.
    pub reserved: u8,
    /// Local address; IPv4 in the first four octets.
    pub address: [u8; 16],
    /// IPv6 scope of a link-local address, else 0.
    pub scope: u32,
    /// Local port, host byte order.
    pub port: u16,
    /// 4 or 6.
    pub family: u8,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
}

/// Life of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Nobody has it.
    #[default]
    Vacant = 0,
    /// Its socket is registered, but not in the table yet.
    Starting = 1,
    /// In the table.
    Live = 2,
    /// Out of the table on purpose; its connections go on.
    Draining = 3,
}

impl SlotState {
    /// Reads the number stored in a [`MemberRecord`]; a number of a stranger's making is vacant.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Starting,
            2 => Self::Live,
            3 => Self::Draining,
            _ => Self::Vacant,
        }
    }
}

/// Who sits in a slot; written by userspace alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemberRecord {
    /// Cookie of the member's socket (`SO_COOKIE`).
    pub cookie: u64,
    /// Inode of the member's socket, as `/proc/PID/fd` shows it.
    pub inode: u64,
    /// Start of the worker in clock ticks since boot, to tell it from a later process of its PID.
    pub start: u64,
    /// The worker; 0 while it is not started.
    pub pid: u32,
    /// 1 to [`crate::MAX_WEIGHT`].
    pub weight: u16,
    /// A [`SlotState`].
    pub state: u8,
    /// Zero.
    pub reserved: u8,
}

/// All member records, by slot: one value of one map, so that one system call reads who is there.
pub type MemberRecords = [MemberRecord; MAX_SLOTS as usize];

const _: () = assert!(size_of::<SlotCounters>() == 16);
const _: () = assert!(size_of::<Misses>() == 16);
const _: () = assert!(size_of::<GroupRecord>() == 56);
const _: () = assert!(size_of::<MemberRecord>() == 32);

#[cfg(feature = "user")]
mod pod {
    use super::{GroupRecord, MemberRecord, Misses, SlotCounters};

    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above): every bit pattern is a
    // value, and no byte of it is uninitialised.
    unsafe impl aya::Pod for SlotCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Misses {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GroupRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for MemberRecord {}
}
