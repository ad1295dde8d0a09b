//! Typed access to a group's pinned maps.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
    sync::atomic::{Ordering, fence},
};

use crate::error::{Context as _, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use balancer_common::{
    LAYOUT_VERSION,
    control::Control,
    maps,
    record::{AgentRecord, GroupRecord, Misses, SlotCounters},
    table::{SLOTS_PER_WORD, pack_slots},
};
use rustix::thread::{MembarrierCommand, membarrier};

use super::{
    loads::Loads,
    records::Records,
    shared::{ReadOnly, SharedWords},
};
use crate::{
    group::{ForeignRecord, GroupSpec},
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
    agent: ArrayMap<AgentRecord>,
    group: ArrayMap<GroupRecord>,
    /// The slot of a socket, by its cookie.
    slots: HashMap<MapData, u64, u32>,
    pub loads: Loads,
}

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
    format!("the pinned map {name} is not like those of this version of balancer")
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
            agent: array(directory, maps::AGENT)?,
            group,
            slots: HashMap::try_from(Map::HashMap(pinned(directory, maps::SLOTS)?))
                .with_context(|| unfit(maps::SLOTS))?,
            loads: Loads::open(directory)?,
        })
    }

    pub fn group(&self) -> Result<GroupSpec> {
        Ok(self.group.get(&0, 0).context("cannot read the group's record")?.try_into()?)
    }

    pub fn set_group(&mut self, group: &GroupSpec) -> Result<()> {
        self.group.set(0, GroupRecord::from(*group), 0).context("cannot write the group's record")
    }

    pub fn agent(&self) -> Result<AgentRecord> {
        self.agent.get(&0, 0).context("cannot read the agent's record")
    }

    pub fn set_agent(&mut self, record: &AgentRecord) -> Result<()> {
        self.agent.set(0, record, 0).context("cannot write the agent's record")
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
        let mut tally = Tally { established: self.loads.established(slot), ..Tally::default() };
        for &SlotCounters { selected, migrated, moved } in per_cpu.iter() {
            tally += Tally { selected, migrated, established: 0 };
            tally.established = tally.established.saturating_sub(moved);
        }
        Ok(tally)
    }

    /// Begins to count for a socket in a slot, all from 0.
    pub fn begin_tenancy(&mut self, slot: u32, cookie: u64) -> Result<()> {
        if self.loads.tenant(slot) != 0 {
            self.end_tenancy(slot)?;
            wait_for_programs();
        }
        let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot count the CPUs")?;
        let zeros = PerCpuValues::try_from(vec![SlotCounters::default(); cpus])
            .context("cannot count the CPUs")?;
        self.counters.set(slot, zeros, 0).context("cannot clear a slot's counters")?;
        self.loads.clear(slot);
        self.slots.insert(cookie, slot, 0).context("cannot store a socket's slot")?;
        self.loads.set_tenant(slot, cookie);
        Ok(())
    }

    /// From now on what ends is not counted for the slot any more; what it counted stays readable.
    pub fn end_tenancy(&mut self, slot: u32) -> Result<()> {
        let tenant = self.loads.set_tenant(slot, 0);
        match self.slots.remove(&tenant) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() != io::ErrorKind::NotFound =>
            {
                Err(error).context("cannot remove a socket's slot")
            }
            _ => Ok(()),
        }
    }

    pub fn misses(&self) -> Result<Misses> {
        let per_cpu = self.misses.get(&0, 0).context("cannot read the group's counters")?;
        Ok(per_cpu.iter().fold(Misses::default(), |sum, misses| Misses {
            fallback: sum.fallback.saturating_add(misses.fallback),
            errors: sum.errors.saturating_add(misses.errors),
            evicted: sum.evicted.saturating_add(misses.evicted),
            evicted_unassured: sum.evicted_unassured.saturating_add(misses.evicted_unassured),
        }))
    }

    /// Whether nobody is in the table.
    pub fn is_table_empty(&self) -> Result<bool> {
        let control = self.control.get(&0, 0).context("cannot read the control word")?;
        Ok(Control::unpack(control).members == 0)
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
            self.loads.set_weight(slot, u32::try_from(weight).unwrap_or(u32::MAX));
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
pub(super) fn wait_for_programs() {
    // Not there on a kernel with nohz_full. A choice takes less than a microsecond, and the next
    // table is several system calls away.
    let _ = membarrier(MembarrierCommand::Global);
}

/// What a built-in worker reads of its group: the record, in its memory and read-only. It keeps no
/// descriptor of the map, with which it could change what it likes.
pub struct WorkerMaps(ReadOnly);

impl WorkerMaps {
    /// Opens them under a group's directory.
    ///
    /// # Errors
    /// Returns an error if they are not pinned there.
    pub fn open(directory: &Path) -> Result<Self> {
        let map = pinned(directory, maps::GROUP)?;
        ReadOnly::of(&map).with_context(|| unfit(maps::GROUP)).map(Self)
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Policy> {
        let number = |offset| self.0.number(offset);
        let version = number(offset_of!(GroupRecord, version));
        (version == LAYOUT_VERSION)
            .then(|| Policy::from_number(number(offset_of!(GroupRecord, policy))))?
    }
}
