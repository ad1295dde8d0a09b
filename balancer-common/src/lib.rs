//! The contract between the two halves of balancer: limits, map names, records, and the pure part
//! of every decision. Built for the kernel (`no_std`) and for the host, where it is tested.
//!
//! - [`address`]: what a client sticks to its worker by.
//! - [`control`]: the one word that says which table is live.
//! - [`table`]: where a position's slot is stored.
//! - [`draw`]: how a policy turns what it looks at into a position.
//! - [`flow`]: what UDP has in place of connections.
//! - [`histogram`]: where a time is counted.
//! - [`load`]: how much a slot has to do, and who has less.
//! - [`stall`]: whether a queue stands still.
//! - [`request`]: what a connection owes.
//! - [`settings`]: what a program is told when it is loaded.
//! - [`sibling`]: what a worker has in the other groups of its service.
//! - [`record`]: what the maps hold besides that.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod address;
pub mod control;
pub mod draw;
pub mod flow;
pub mod histogram;
pub mod load;
pub mod record;
pub mod request;
pub mod settings;
pub mod sibling;
pub mod stall;
pub mod table;

/// Version of everything in this crate that two builds of balancer must agree on to share pins.
/// Raise it with every change of a record, a limit or a map.
pub const LAYOUT_VERSION: u32 = 10;

/// The most members a group's table may hold.
pub const MAX_MEMBERS: u32 = 1024;

/// Slots of the socket array: twice the members, so that every one of them can be replaced while
/// its predecessor still drains.
pub const MAX_SLOTS: u32 = 2 * MAX_MEMBERS;

/// The largest weight. The smallest is 1: a member that shall get nothing is drained instead.
pub const MAX_WEIGHT: u16 = 1000;

/// Size of the ring buffer of [`maps::LISTENS`]; its records are ports.
pub const LISTENS_BYTES: u32 = 4096;

/// Groups that one host may have at once.
pub const MAX_GROUPS: u32 = 1024;

/// Groups of one service in which connections are counted.
pub const MAX_SERVICE_GROUPS: u32 = 32;

/// Connections that migrated and are open still.
pub const MAX_MOVED: u32 = 1 << 18;

/// Agents that may be told of new listeners; more have to look by the clock.
pub const MAX_WATCHES: u32 = 64;

/// Names of the maps, as they stand in the object and under the group's directory on bpffs.
pub mod maps {
    /// `REUSEPORT_SOCKARRAY`: slot → socket; reads as the socket's cookie.
    pub const SOCKETS: &str = "SOCKETS";
    /// `ARRAY`: the two halves of the table, see [`crate::table`]; may be mapped into memory.
    pub const TABLE: &str = "TABLE";
    /// `ARRAY`, one word: which half is live, see [`crate::control`].
    pub const CONTROL: &str = "CONTROL";
    /// `ARRAY`, six words: the counters of the rotations, for SYNs and for ACKs that may bring a SYN
    /// cookie back; when one last did (jiffies); where the addresses of the members' sockets are; and
    /// when a packet was last looked at before its delivery (jiffies); and how many sets of flows were swept.
    pub const CURSOR: &str = "CURSOR";
    /// `PERCPU_ARRAY`, two words: the state of this CPU's random numbers, or its own counts of turns, as
    /// in `CURSOR`.
    pub const RANDOM: &str = "RANDOM";
    /// `PERCPU_ARRAY`: slot → [`crate::record::SlotCounters`].
    pub const COUNTERS: &str = "COUNTERS";
    /// `PERCPU_ARRAY`, one [`crate::record::Misses`].
    pub const MISSES: &str = "MISSES";
    /// `ARRAY`, one [`crate::record::GroupRecord`]; the programs never read it; may be mapped into memory.
    pub const GROUP: &str = "GROUP";
    /// `ARRAY`, one [`crate::record::MemberRecords`]; the programs never read it.
    pub const MEMBERS: &str = "MEMBERS";
    /// `ARRAY`, one [`crate::record::AgentRecord`]; the programs never read it.
    pub const AGENT: &str = "AGENT";
    /// `ARRAY`: slot → [`crate::record::LoadRecord`]; may be mapped into memory.
    pub const LOAD: &str = "LOAD";
    /// `ARRAY_OF_MAPS`: slot → an `ARRAY` of one word of 64 bits, the load in its worker's own words, which
    /// may be mapped into memory. Each is pinned as `REPORTED-SLOT`.
    pub const REPORTED: &str = "REPORTED";
    /// `PERCPU_ARRAY`: the last [`crate::record::EARLY_LOOKS`] [`crate::record::EarlyLook`]s, and one more
    /// whose first word says how many there were.
    pub const EARLY: &str = "EARLY";
    /// `ARRAY`: sets of [`crate::record::Flow`]s, see [`crate::flow`]; may be mapped into memory.
    pub const FLOWS: &str = "FLOWS";
    /// `HASH`: cookie of a member's socket → its slot.
    pub const SLOTS: &str = "SLOTS";
    /// Ring buffer of aya-log.
    pub const LOGS: &str = "AYA_LOGS";

    /// Ring buffer: a socket has begun to listen on the agent's port. Never pinned: it belongs to the agent
    /// that watches, and stands in [`WATCHERS`].
    pub const LISTENS: &str = "LISTENS";

    /// `ARRAY_OF_MAPS`, one a host: index of a group → its [`LOAD`].
    pub const GROUPS: &str = "GROUPS";
    /// `SK_STORAGE`, one a host: a socket's [`crate::record::Place`].
    pub const SLOT_OF: &str = "SLOT_OF";
    /// `HASH`, one a host: cookie of a connection that migrated → the [`crate::record::Tag`] that it
    /// has had since.
    pub const MOVED: &str = "MOVED";
    /// `ARRAY`, one word, one a host: connections that were open before counting began and are still;
    /// may be mapped into memory.
    pub const BEFORE: &str = "BEFORE";
    /// `ARRAY`, one a host: the [`crate::record::Watch`]es.
    pub const WATCHES: &str = "WATCHES";
    /// `ARRAY_OF_MAPS`, one a host: number of a watch → its [`LISTENS`].
    pub const WATCHERS: &str = "WATCHERS";

    /// `ARRAY`, three words, one a host: the epoch of the request tracker, 0 while there is none; the last
    /// epoch that was given to one; and how many elements of [`TIMES`] were given to members; may be mapped
    /// into memory.
    pub const TRACKER: &str = "TRACKER";
    /// `ARRAY` of [`crate::record::RequestTimes`], one a host, only while there is a request tracker, which
    /// makes it as long as it needs; may be mapped into memory.
    pub const TIMES: &str = "TIMES";

    /// The maps that all groups of a host share.
    pub const SHARED: [&str; 7] = [GROUPS, SLOT_OF, MOVED, BEFORE, WATCHES, WATCHERS, TRACKER];

    /// Every map of a group, in the order in which they are pinned. `GROUP` is last: where it
    /// is readable, the others are there.
    pub const ALL: [&str; 16] = [
        SOCKETS, TABLE, CONTROL, CURSOR, RANDOM, COUNTERS, MISSES, LOAD, REPORTED, EARLY, FLOWS,
        SLOTS, MEMBERS, AGENT, LOGS, GROUP,
    ];
}
