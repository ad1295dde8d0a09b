//! The records in the maps. Each is plain old data without padding, and its size is asserted:
//! the two halves, and two builds of balancer that share pins, must agree on it.

use crate::{MAX_SLOTS, histogram::BUCKETS};

/// What one slot was given, per CPU, since its member got it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotCounters {
    /// New connections (for UDP: datagrams) for which the slot was chosen.
    pub selected: u64,
    /// Connections that moved here from a listener that closed, half-open ones included.
    pub migrated: u64,
    /// Those of them that were established before they moved.
    pub moved: u64,
}

/// What the programs left to the kernel's hash, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Misses {
    /// Choices left to the kernel, because no slot of the table had a socket.
    pub fallback: u64,
    /// Slots that the kernel refused for another reason than being empty, and choices for which a map
    /// could not be read. Not zero means a defect: of balancer, or of who wrote its maps.
    pub errors: u64,
    /// Assured flows that gave their place to new ones: the table is too small.
    pub evicted: u64,
    /// Others that did so.
    pub evicted_unassured: u64,
}

/// A flow; or, at the head of a set, its lock in `key`: see [`crate::flow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Who the client is; 0 for none.
    pub key: u64,
    /// Cookie of the socket that it was given to.
    pub tenant: u64,
    /// When somebody last sent, in ticks.
    pub seen: u32,
    /// The slot of that socket.
    pub slot: u16,
    /// 0 before the client has sent; then see [`crate::flow::asked`].
    pub asked: u8,
    /// 1 once the worker has.
    pub answered: u8,
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
    /// How long a queue may stand still before its worker is stalled, in microseconds; 0 for ever.
    pub avoid_stalled: u32,
    /// How long a new member's weight grows, in milliseconds.
    pub slow_start: u32,
    /// The group's index among the host's groups.
    pub index: u32,
    /// 1 where its connections are counted.
    pub counted: u16,
    /// 1 if its requests are tracked, whether somebody observes them or not.
    pub observed: u8,
    /// The largest share of the choices that a member gets, in percent; 0 for no limit.
    pub max_share: u8,
    /// Sets of the table of flows; 0 where each datagram is a choice.
    pub flow_sets: u32,
    /// How long a flow lasts in which nobody sends, in milliseconds.
    pub flow_timeout: u32,
    /// What the keys of its flows are made with, so that nobody else can make them.
    pub flow_seed: u64,
    /// Name of the service that the group is of, filled up with zeros; all zeros for none.
    pub service: [u8; 32],
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

/// What is known of a slot's socket; written by programs, tenant and weight by userspace. As long as two
/// cache lines, so that two slots never share one; what is known of requests is in the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LoadRecord {
    /// Connections, open and on their way: see [`crate::load`].
    pub count: u64,
    /// Connections that were established or moved here since the tenant came.
    pub established: u64,
    /// How many of them were accepted when that was last seen, and since when: see [`crate::stall`].
    pub observed: u64,
    /// When it was last chosen, in jiffies, the lower half; 0 for never.
    pub chosen: u32,
    /// Connections that were established though no choice had been made for them.
    pub unasked: u32,
    /// Its weight now; 0 where it is not to be chosen by load, because its socket is gone.
    pub weight: u32,
    /// How many connections may wait there, as last seen; 0 before, and for ever anew with the weight.
    pub limit: u32,
    /// Cookie of the socket that the counts are of; 0 for none. What belongs to another is not counted.
    pub tenant: u64,
    /// The kernel's address of the tenant, once it was looked for; 0 before.
    pub socket: u64,
    /// When its queue was last looked at, in ticks.
    pub looked: u32,
    /// 1 if its queue was full or stood still then.
    pub unable: u16,
    /// 1 if connections of this tenant moved elsewhere: see [`crate::maps::MOVED`].
    pub moved: u16,
    /// Connections that owe an answer, and new ones: see [`crate::request`]. Only while requests are
    /// tracked.
    pub work: u64,
    /// In the upper half the number of a window of choices, in the lower how many of those it got: see
    /// [`crate::draw::is_beyond_share`].
    pub window: u64,
    /// Where its times are counted in [`crate::maps::TIMES`], plus one; 0 for nowhere.
    pub times: u64,
    /// The era, see [`crate::request::next_era`]: the same for all slots of a group. It outlives the tenant.
    pub era: u64,
    /// Its worker's member in the next group of the service, or 0: see [`crate::sibling`].
    pub sibling: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Which tenant a socket belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tag {
    /// Cookie of the listener. 0 for a connection that is not counted.
    pub tenant: u64,
    /// Its group's index among the host's groups.
    pub group: u16,
    /// Its slot.
    pub slot: u16,
    /// While a connection is counted there as open: 1, or [`OPEN_BEFORE`].
    pub counted: u32,
}

/// What is kept with a socket, and cloned from a listener into the connections that come by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    /// Whose it is.
    pub tag: Tag,
    /// What the connection owes: see [`crate::request`].
    pub work: u64,
    /// When it was established, until its first answer; nanoseconds of `CLOCK_MONOTONIC`, as those below.
    pub established: u64,
    /// When the first data came that the worker has not read.
    pub arrived: u64,
    /// When the data came that the worker has read, and not answered.
    pub owed: u64,
}

impl Tag {
    /// Of a slot of a group; both are below 65,536.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "said above")]
    pub const fn of(tenant: u64, group: u32, slot: u32, counted: u32) -> Self {
        Self { tenant, group: group as u16, slot: slot as u16, counted }
    }
}

/// How often which time was seen, by [`crate::histogram::bucket`].
pub type Times = [u64; BUCKETS];

/// A member's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RequestTimes {
    /// From the arrival of a request to the first octet of its answer.
    pub to_answer: Times,
    /// From the arrival of data until the worker read it.
    pub to_read: Times,
    /// From the end of the handshake to the first octet of the first answer.
    pub to_first: Times,
    /// Of `to_answer` those that are counted apart: see [`crate::request::is_apart`].
    pub apart_to_answer: Times,
    /// As `apart_to_answer`, of `to_read`.
    pub apart_to_read: Times,
}

/// Of a [`Tag`]: the connection was open before counting began.
pub const OPEN_BEFORE: u32 = 2;

/// Looks at one listener from several places: netfilter's `socket` match or TPROXY first, the delivery
/// of the segment afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EarlyLook {
    /// The packet's hash in the upper half, its sequence number in the lower.
    pub packet: u64,
    /// When, in jiffies, the lower half; 0 for none.
    pub at: u32,
    /// The slot that was chosen.
    pub slot: u32,
}

/// How many early looks a CPU remembers: a batch of packets passes PREROUTING as a whole before the
/// first is delivered (`ip_sublist_rcv`), eight by default (`net.core.gro_normal_batch`).
pub const EARLY_LOOKS: u32 = 16;

/// An agent that wants to be told of new listeners on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Watch {
    /// Start of the process in clock ticks since boot, to tell it from a later one of its PID.
    pub start: u64,
    /// The process; 0 for nobody.
    pub pid: u32,
    /// The port, host byte order.
    pub port: u32,
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
    /// How often the group's program was found to be another's or none, and put back.
    pub displaced: u32,
    /// How many workers the reload that was asked for last replaces at a time.
    pub parallel: u32,
    /// How many workers `balancer scale` wants, until the agent has heard of it; 0 for no such wish.
    pub wanted: u32,
    /// Why one has failed, in UTF-8, filled up with zeros.
    pub why: [u8; WHY_BYTES],
}

const _: () = assert!(MAX_SLOTS <= 1 << 16 && crate::MAX_GROUPS <= 1 << 16);
const _: () = assert!(size_of::<SlotCounters>() == 24);
const _: () = assert!(size_of::<Misses>() == 32);
const _: () = assert!(size_of::<GroupRecord>() == 120);
const _: () = assert!(size_of::<MemberRecord>() == 48);
const _: () = assert!(size_of::<AgentRecord>() == 40 + WHY_BYTES);
const _: () = assert!(size_of::<LoadRecord>() == 128);
const _: () = assert!(size_of::<Tag>() == 16);
const _: () = assert!(size_of::<Place>() == 48);
const _: () = assert!(size_of::<EarlyLook>() == 16);
const _: () = assert!(size_of::<Watch>() == 16);
const _: () = assert!(size_of::<Flow>() == 24);
const _: () = assert!(size_of::<RequestTimes>() == 5 * 8 * BUCKETS);

#[cfg(feature = "user")]
mod pod {
    use super::{
        AgentRecord, GroupRecord, LoadRecord, MemberRecord, Misses, Place, RequestTimes,
        SlotCounters, Tag, Watch,
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
    unsafe impl aya::Pod for Tag {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Place {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RequestTimes {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Watch {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AgentRecord {}
}
