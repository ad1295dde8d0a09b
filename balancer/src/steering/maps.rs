//! Typed access to a group's pinned maps.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
    sync::atomic::{Ordering, fence},
};

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use balancer_ebpf::{
    LAYOUT_VERSION, MAX_SLOTS,
    control::Control,
    maps,
    record::{AgentRecord, GroupRecord, LoadRecord, Misses, SlotCounters},
    table::{SLOTS_PER_WORD, pack_slots},
};
use rustix::thread::{MembarrierCommand, membarrier};

use super::{records::Records, shared::SharedWords};
use crate::{
    group::{ForeignRecord, Group},
    policy::Policy,
    snapshot::Tally,
    table::Table,
};

type ArrayMap<T> = Array<MapData, T>;
type PerCpuMap<T> = PerCpuArray<MapData, T>;

pub(super) struct Maps {
    // The kernel answers a look-up in a REUSEPORT_SOCKARRAY with the socket's cookie, provided
    // that values are 64 bits wide. aya's type for it knows neither; but look-up, update and
    // delete by key are the same system calls for every kind of map, and these are aya's safe
    // form of them.
    sockets: HashMap<MapData, u32, u64>,
    table: SharedWords,
    control: ArrayMap<u64>,
    counters: PerCpuMap<SlotCounters>,
    misses: PerCpuMap<Misses>,
    pub members: Records,
    accepted: ArrayMap<u64>,
    agent: ArrayMap<AgentRecord>,
    group: ArrayMap<GroupRecord>,
    /// A [`LoadRecord`] a slot.
    load: SharedWords,
    /// What workers say of their load, a word a slot.
    pub reported: SharedWords,
}

const LOAD_WORDS: usize = size_of::<LoadRecord>() / size_of::<u64>();

fn load_word(slot: u32, field: usize) -> usize {
    slot as usize * LOAD_WORDS + field / size_of::<u64>()
}

const COUNT: usize = offset_of!(LoadRecord, count);
const SIGHTING: usize = offset_of!(LoadRecord, sighting);
const WEIGHT: usize = offset_of!(LoadRecord, weight);

pub(super) fn pinned(directory: &Path, name: &str) -> Result<MapData> {
    let path = directory.join(name);
    MapData::from_pin(&path)
        .with_context(|| format!("cannot open the pinned map {}", path.display()))
}

fn array<T: Pod>(directory: &Path, name: &str) -> Result<ArrayMap<T>> {
    Array::try_from(Map::Array(pinned(directory, name)?)).with_context(|| unfit(name))
}

fn per_cpu<T: Pod>(directory: &Path, name: &str) -> Result<PerCpuMap<T>> {
    PerCpuArray::try_from(Map::PerCpuArray(pinned(directory, name)?)).with_context(|| unfit(name))
}

pub(super) fn unfit(name: &str) -> String {
    format!("the pinned map {name} is not as this version of balancer makes it")
}

impl Maps {
    pub fn open(directory: &Path) -> Result<Self> {
        let group: ArrayMap<GroupRecord> = array(directory, maps::GROUP)?;
        // Said first, for another version may have other maps. 0 is a group in the making.
        let version = group.get(&0, 0).context("cannot read the group's record")?.version;
        if ![0, LAYOUT_VERSION].contains(&version) {
            return Err(ForeignRecord::Version(version).into());
        }
        Ok(Self {
            sockets: HashMap::try_from(Map::HashMap(pinned(directory, maps::SOCKETS)?))
                .with_context(|| unfit(maps::SOCKETS))?,
            table: SharedWords::open(&directory.join(maps::TABLE), 1)?,
            control: array(directory, maps::CONTROL)?,
            counters: per_cpu(directory, maps::COUNTERS)?,
            misses: per_cpu(directory, maps::MISSES)?,
            members: Records::open(directory)?,
            accepted: array(directory, maps::ACCEPTED)?,
            agent: array(directory, maps::AGENT)?,
            group,
            load: SharedWords::open(&directory.join(maps::LOAD), LOAD_WORDS)?,
            reported: SharedWords::open(&directory.join(maps::REPORTED), 1)?,
        })
    }

    pub fn group(&self) -> Result<Group> {
        Ok(self.group.get(&0, 0).context("cannot read the group's record")?.try_into()?)
    }

    pub fn set_group(&mut self, group: &Group) -> Result<()> {
        self.group.set(0, GroupRecord::from(*group), 0).context("cannot write the group's record")
    }

    pub fn agent(&self) -> Result<AgentRecord> {
        self.agent.get(&0, 0).context("cannot read what the group's agent tells")
    }

    pub fn set_agent(&mut self, record: &AgentRecord) -> Result<()> {
        self.agent.set(0, record, 0).context("cannot write what the group's agent tells")
    }

    /// Cookie of the socket in a slot; `None` where the slot is empty.
    pub fn socket(&self, slot: u32) -> Result<Option<u64>> {
        match self.sockets.get(&slot, 0) {
            Ok(cookie) => Ok(Some(cookie)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("cannot read the socket array"),
        }
    }

    pub fn set_socket(&mut self, slot: u32, socket: BorrowedFd<'_>) -> Result<()> {
        let fd = u64::try_from(socket.as_raw_fd()).context("a descriptor is negative")?;
        self.sockets.insert(slot, fd, 0).with_context(|| {
            format!(
                "the kernel refused a socket for slot {slot} (it must listen with SO_REUSEPORT, \
                 speak TCP or UDP, and be in no other socket array)"
            )
        })
    }

    /// Takes the socket out of a slot, which may be empty.
    pub fn clear_socket(&mut self, slot: u32) -> Result<()> {
        match self.sockets.remove(&slot) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() != io::ErrorKind::NotFound =>
            {
                Err(error).context("cannot take a socket out of the socket array")
            }
            _ => Ok(()),
        }
    }

    pub fn tally(&self, slot: u32) -> Result<Tally> {
        let per_cpu = self.counters.get(&slot, 0).context("cannot read a slot's counters")?;
        let accepted = self.accepted.get(&slot, 0).context("cannot read a slot's counters")?;
        let mut tally = Tally { accepted, ..Tally::default() };
        for &SlotCounters { selected, migrated } in per_cpu.iter() {
            tally += Tally { selected, migrated, accepted: 0 };
        }
        Ok(tally)
    }

    pub fn clear_counters(&mut self, slot: u32) -> Result<()> {
        let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot count the CPUs")?;
        let zeros = PerCpuValues::try_from(vec![SlotCounters::default(); cpus])
            .context("cannot count the CPUs")?;
        self.counters.set(slot, zeros, 0).context("cannot clear a slot's counters")?;
        for field in [COUNT, SIGHTING, WEIGHT] {
            self.load.set(load_word(slot, field), 0);
        }
        self.reported.set(slot as usize, 0);
        self.accepted.set(slot, 0, 0).context("cannot clear a slot's counters")
    }

    /// Connections that count for a slot: see [`balancer_ebpf::load`].
    pub fn connections(&self, slot: u32) -> u64 {
        self.load.get(load_word(slot, COUNT))
    }

    /// Adds to the connections of a slot, while the tracker does the same.
    pub fn add_connections(&self, slot: u32, more: u64) {
        self.load.word(load_word(slot, COUNT)).fetch_add(more, Ordering::AcqRel);
    }

    /// Begins to count connections from none.
    pub fn forget_connections(&self) {
        for slot in 0..MAX_SLOTS {
            self.load.set(load_word(slot, COUNT), 0);
        }
    }

    /// When a slot's queue last moved, as far as was seen: see [`balancer_ebpf::stall`].
    pub fn sighting(&self, slot: u32) -> u64 {
        self.load.get(load_word(slot, SIGHTING))
    }

    pub fn misses(&self) -> Result<Misses> {
        let per_cpu = self.misses.get(&0, 0).context("cannot read the group's counters")?;
        Ok(per_cpu.iter().fold(Misses::default(), |sum, misses| Misses {
            fallback: sum.fallback.saturating_add(misses.fallback),
            errors: sum.errors.saturating_add(misses.errors),
        }))
    }

    /// Whether nobody is in the table.
    pub fn is_table_empty(&self) -> Result<bool> {
        let control = self.control.get(&0, 0).context("cannot read the control word")?;
        Ok(Control::unpack(control).members == 0)
    }

    /// The share that a slot was published with; 0 where it turned out to be dead since.
    pub fn share(&self, slot: u32) -> u64 {
        self.load.get(load_word(slot, WEIGHT))
    }

    pub fn publish(&mut self, table: &Table) -> Result<()> {
        let current = self.control.get(&0, 0).context("cannot read the control word")?;
        let half = Control::unpack(current).half.other();
        for (position, slots) in words(&table.sequence) {
            self.table.set(half.sequence_word(position) as usize, pack_slots(slots));
        }
        for (index, slots) in words(&table.members) {
            self.table.set(half.member_word(index) as usize, pack_slots(slots));
        }
        let control =
            Control { half, positions: length(&table.sequence)?, members: length(&table.members)? };
        for (&slot, &weight) in table.members.iter().zip(&table.weights) {
            self.load.set(load_word(slot, WEIGHT), weight);
        }
        // Who reads the control word finds the table that it tells of.
        fence(Ordering::Release);
        self.control.set(0, control.pack(), 0).context("cannot write the control word")?;
        wait_for_programs();
        Ok(())
    }
}

fn length(slots: &[u32]) -> Result<u32> {
    u32::try_from(slots.len()).context("the table is too long")
}

fn words(slots: &[u32]) -> impl Iterator<Item = (u32, &[u32])> {
    (0..).step_by(SLOTS_PER_WORD as usize).zip(slots.chunks(SLOTS_PER_WORD as usize))
}

/// Waits for an RCU grace period: programs run inside one, so none that read the old control word
/// is running afterwards, and its half of the table may be written again.
fn wait_for_programs() {
    // Not there on a kernel with nohz_full. A choice takes less than a microsecond, and the next
    // table is several system calls away.
    let _ = membarrier(MembarrierCommand::Global);
}

/// The two maps that a built-in worker uses.
pub struct WorkerMaps {
    group: ArrayMap<GroupRecord>,
    accepted: ArrayMap<u64>,
}

impl WorkerMaps {
    /// Opens them under a group's directory.
    ///
    /// # Errors
    /// Where they are not pinned there.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self {
            group: array(directory, maps::GROUP)?,
            accepted: array(directory, maps::ACCEPTED)?,
        })
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Policy> {
        Some(Group::try_from(self.group.get(&0, 0).ok()?).ok()?.policy)
    }

    /// Publishes how many connections the worker in a slot has accepted.
    pub fn set_accepted(&mut self, slot: u32, accepted: u64) {
        // A count that lags is no reason to drop the connection it counts.
        let _ = self.accepted.set(slot, accepted, 0);
    }
}
