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
    /// What counts as a member's load, as userspace numbers it.
    pub load: u8,
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
    /// How long a queue may stand still before its worker counts as stalled, in microseconds; 0 for
    /// ever.
    pub avoid_stalled: u32,
    /// How long a new member's weight grows, in milliseconds.
    pub slow_start: u32,
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
    /// Out of the table for good: its worker is replaced, and to end once its connections have.
    Leaving = 4,
}

impl SlotState {
    /// Reads the number stored in a [`MemberRecord`]; a number of a stranger's making is vacant.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Starting,
            2 => Self::Live,
            3 => Self::Draining,
            4 => Self::Leaving,
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
    /// When it became live, in milliseconds of `CLOCK_BOOTTIME`; 0 where it joined nobody.
    pub since: u64,
    /// The worker; 0 while it is not started.
    pub pid: u32,
    /// 1 to [`crate::MAX_WEIGHT`].
    pub weight: u16,
    /// A [`SlotState`].
    pub state: u8,
    /// Zero.
    pub reserved: u8,
    /// What a client that sticks to it sticks to: a number that nobody else present has, and that
    /// the successor of a worker inherits.
    pub key: u32,
    /// Zero.
    pub padding: u32,
}

/// How much a slot has to do; written by programs and tracker, its weight by userspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LoadRecord {
    /// Connections, open and on their way: see [`crate::load`].
    pub count: u64,
    /// When its queue last moved, as far as was seen: see [`crate::stall`].
    pub sighting: u64,
    /// When it was last chosen by its count, in jiffies.
    pub claimed: u64,
    /// Its weight now; 0 where it is not to be chosen by load, because its socket is gone.
    pub weight: u64,
}

/// What a socket is to the tracker: kept with the socket, and cloned from a listener into the
/// connections that come by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    /// The slot it belongs to.
    pub slot: u32,
    /// 1 while it is counted there as an open connection.
    pub counted: u32,
}

/// What a program is to do besides its policy: constants of the loaded program, so that what is off
/// costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// How long a queue may stand still, in [`crate::stall`]'s ticks; 0 for ever.
    pub stall_ticks: u32,
    /// A [`crate::load::Source`].
    pub source: u32,
    /// 1 for UDP.
    pub udp: u32,
    /// 1 where the tracker counts.
    pub tracked: u32,
    /// CPUs that the kernel may ever have.
    pub cpus: u32,
}

/// Where the running kernel keeps what the programs read out of its sockets: offsets in octets, from
/// its BTF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `reuseport_array.ptrs`
    pub sockets: u32,
    /// `sock.sk_ack_backlog`
    pub backlog: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen`: handshakes under way.
    pub half_open: u32,
    /// `inet_connection_sock.icsk_accept_queue.rskq_accept_head`
    pub head: u32,
    /// `tcp_request_sock.snt_isn`
    pub isn: u32,
    /// `sock.sk_receive_queue.qlen`
    pub received: u32,
    /// `udp_sock.reader_queue.qlen`
    pub reading: u32,
    /// `sock.sk_backlog.rmem_alloc`
    pub buffered: u32,
    /// `sock.sk_rcvbuf`
    pub buffer: u32,
    /// `sock.sk_reuseport_cb`: the kernel's own group.
    pub group: u32,
    /// `sock_reuseport.synq_overflow_ts`: when it last sent a SYN cookie.
    pub cookie_sent: u32,
}

/// All member records, by slot: one value of one map, so that one system call reads who is there.
pub type MemberRecords = [MemberRecord; MAX_SLOTS as usize];

/// Room for why a reload failed.
pub const WHY_BYTES: usize = 512;

/// What the agent of a group tells those who wait for it, and the agent that comes after it; and
/// what is asked of it. Written under the group's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AgentRecord {
    /// How many workers it keeps.
    pub workers: u32,
    /// Slot, plus one, of a worker that was replaced and has not ended yet; 0 for none.
    pub leaving: u32,
    /// Number of the last reload that `balancer reload` has asked for; 0 for none.
    pub asked: u32,
    /// Number of the last reload that has begun; 0 for none.
    pub begun: u32,
    /// Number of the last reload that has ended.
    pub ended: u32,
    /// Number of the last reload that has failed.
    pub failed: u32,
    /// Workers that the last reload has replaced.
    pub replaced: u32,
    /// Why one has failed, in UTF-8, filled up with zeros.
    pub why: [u8; WHY_BYTES],
}

const _: () = assert!(size_of::<SlotCounters>() == 16);
const _: () = assert!(size_of::<Misses>() == 16);
const _: () = assert!(size_of::<GroupRecord>() == 64);
const _: () = assert!(size_of::<MemberRecord>() == 48);
const _: () = assert!(size_of::<AgentRecord>() == 28 + WHY_BYTES);
const _: () = assert!(size_of::<LoadRecord>() == 32);
const _: () = assert!(size_of::<Place>() == 8);
const _: () = assert!(size_of::<Settings>() == 20);
const _: () = assert!(size_of::<Offsets>() == 44);

#[cfg(feature = "user")]
mod pod {
    use super::{
        AgentRecord, GroupRecord, LoadRecord, MemberRecord, Misses, Offsets, Place, Settings,
        SlotCounters,
    };

    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above): every bit pattern is a
    // value, and no byte of it is uninitialised.
    unsafe impl aya::Pod for SlotCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Misses {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GroupRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for MemberRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LoadRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Place {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Offsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AgentRecord {}
}
