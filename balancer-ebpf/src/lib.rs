//! The contract between the two halves of balancer: limits, map names, records, and the pure part
//! of every decision. Built for the kernel (`no_std`) and for the host, where it is tested.
//!
//! - [`address`]: what a client sticks to its worker by.
//! - [`control`]: the one word that says which table is live.
//! - [`table`]: where a position's slot is stored.
//! - [`draw`]: how a policy turns what it looks at into a position.
//! - [`load`]: how much a slot has to do, and who has less.
//! - [`stall`]: whether a queue stands still.
//! - [`record`]: what the maps hold besides that.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod address;
pub mod control;
pub mod draw;
pub mod load;
pub mod record;
pub mod stall;
pub mod table;

/// Version of everything in this crate that two builds of balancer must agree on to share pins.
/// Raise it with every change of a record, a limit or a map.
pub const LAYOUT_VERSION: u32 = 6;

/// The most members a group's table may hold.
pub const MAX_MEMBERS: u32 = 1024;

/// Slots of the socket array: twice the members, so that every one of them can be replaced while
/// its predecessor still drains.
pub const MAX_SLOTS: u32 = 2 * MAX_MEMBERS;

/// The largest weight. The smallest is 1: a member that shall get nothing is drained instead.
pub const MAX_WEIGHT: u16 = 1000;

/// Size of the ring buffer of [`maps::LISTENS`]; its records are PIDs.
pub const LISTENS_BYTES: u32 = 4096;

/// Connections that are elsewhere than their [`record::Place`] says; those that migrated longest ago are
/// forgotten first.
pub const MAX_MOVED: u32 = 4096;

/// Listeners that are remembered while they close.
pub const MAX_CLOSING: u32 = 256;

/// Names of the maps, as they stand in the object and under the group's directory on bpffs.
pub mod maps {
    /// `REUSEPORT_SOCKARRAY`: slot → socket; reads as the socket's cookie.
    pub const SOCKETS: &str = "SOCKETS";
    /// `ARRAY`: the two halves of the table, see [`crate::table`]; may be mapped into memory.
    pub const TABLE: &str = "TABLE";
    /// `ARRAY`, one word: which half is live, see [`crate::control`].
    pub const CONTROL: &str = "CONTROL";
    /// `ARRAY`, four words: the counters of the rotations, for SYNs and for ACKs that may bring a SYN
    /// cookie back; when one last did (jiffies); and where the addresses of the members' sockets are.
    pub const CURSOR: &str = "CURSOR";
    /// `PERCPU_ARRAY`, two words: the state of this CPU's random numbers, or its own counts of turns, as
    /// in `CURSOR`.
    pub const RANDOM: &str = "RANDOM";
    /// `PERCPU_ARRAY`: slot → [`crate::record::SlotCounters`].
    pub const COUNTERS: &str = "COUNTERS";
    /// `PERCPU_ARRAY`, one [`crate::record::Misses`].
    pub const MISSES: &str = "MISSES";
    /// `ARRAY`, one [`crate::record::GroupRecord`]; the programs never read it.
    pub const GROUP: &str = "GROUP";
    /// `ARRAY`, one [`crate::record::MemberRecords`]; the programs never read it.
    pub const MEMBERS: &str = "MEMBERS";
    /// `ARRAY`, one [`crate::record::AgentRecord`]; the programs never read it.
    pub const AGENT: &str = "AGENT";
    /// `ARRAY`: slot → connections the built-in worker has accepted; the programs never read it.
    pub const ACCEPTED: &str = "ACCEPTED";
    /// `ARRAY`: slot → [`crate::record::LoadRecord`]; may be mapped into memory.
    pub const LOAD: &str = "LOAD";
    /// `ARRAY`: slot → its load in the worker's own words, 64 bits; may be mapped into memory.
    pub const REPORTED: &str = "REPORTED";
    /// `LRU_HASH`: the kernel address of a connection that migrated → the slot it belongs to since.
    pub const MOVED: &str = "MOVED";
    /// `LRU_HASH`: the kernel address of a listener that closes → its slot. An address is used again
    /// after that, so each is looked up while its listener closes only.
    pub const CLOSING: &str = "CLOSING";
    /// `SK_STORAGE`: a socket's [`crate::record::Place`]. Pinned only while the tracker counts.
    pub const SLOT_OF: &str = "SLOT_OF";
    /// Ring buffer of aya-log.
    pub const LOGS: &str = "AYA_LOGS";

    /// Ring buffer: the process in whose name a listener has come or gone. Never pinned: it belongs
    /// to the agent that watches.
    pub const LISTENS: &str = "LISTENS";

    /// Every map of a group, in the order in which they are pinned. `GROUP` is last: where it
    /// is readable, the others are there.
    pub const ALL: [&str; 16] = [
        SOCKETS, TABLE, CONTROL, CURSOR, RANDOM, COUNTERS, MISSES, LOAD, REPORTED, MOVED, CLOSING,
        MEMBERS, AGENT, ACCEPTED, LOGS, GROUP,
    ];
}
