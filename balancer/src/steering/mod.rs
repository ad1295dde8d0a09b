//! One group's loaded maps and attached program. Only this module and its children use aya.
//!
//! All state is in pinned maps, so a [`Steering`] is opened by any process that may, does its work
//! under [`Steering::lock`], and is dropped again; nothing is cached between two calls.

mod agent;
mod attachment;
mod listens;
mod loads;
mod logs;
mod maps;
mod object;
mod offsets;
mod publishing;
mod records;
mod shared;
mod state;
mod stats;
mod store;
mod tracker;
mod trust;
mod waking;

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use balancer_ebpf::{
    load::{self, Source},
    record::{MemberRecord, SlotState},
};
use socket2::SockRef;

pub use self::{
    listens::Listens,
    logs::{DEBUG as LOG_DEBUG, Logs, forward as forward_logs},
    maps::WorkerMaps,
    object::bytes as object_bytes,
    offsets::offsets_in,
    publishing::entry,
    stats::{Measuring, Runs, measure_runs},
    store::{DEFAULT_BPFFS, Lock, Store, is_bpffs},
};
use self::{maps::Maps, object::Program};
use crate::{group::Group, policy::Policy, process::Identity, tuning::Tuning, weight::Weight};

/// A slot that somebody has, or had.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its place in the socket array.
    pub slot: u32,
    /// The worker; PID 0 while it is not started.
    pub worker: Identity,
    /// Its share relative to the others.
    pub weight: Weight,
    /// Its life.
    pub state: SlotState,
    /// The kernel's own name for its socket, never used twice.
    pub cookie: u64,
    /// Its socket's inode, as `/proc/PID/fd` shows it.
    pub inode: u64,
    /// What clients stick to.
    pub key: u32,
    /// When it became live, in milliseconds since boot; 0 where it joined nobody.
    pub since: u64,
}

/// A group's steering.
pub struct Steering {
    name: String,
    directory: PathBuf,
    /// The directory's inode: a group of the same name that comes later has another.
    inode: u64,
    maps: Box<Maps>,
}

impl Steering {
    /// Loads maps and the policy's program, lets `fill` seat who is there already, and pins it all
    /// in one step. Nothing is attached yet.
    ///
    /// # Errors
    /// Where the kernel refuses a map or the program, `fill` fails, or the name is taken. Nothing
    /// stays pinned.
    pub fn create(
        store: &Store,
        name: &str,
        group: &Group,
        fill: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<(Self, Logs)> {
        let unfinished = store.begin()?;
        let created = Self::create_in(&unfinished, name, group, fill)
            .and_then(|logs| Ok((store.publish(&unfinished, name)?, logs)));
        match created {
            Ok((directory, logs)) => Ok((Self::open_directory(name, directory)?, logs)),
            Err(error) => {
                store.abandon(&unfinished)?;
                Err(error)
            }
        }
    }

    fn create_in(
        directory: &Path,
        name: &str,
        group: &Group,
        fill: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Logs> {
        let mut ebpf = object::load(directory, group)?;
        let mut maps = Maps::open(directory)?;
        maps.set_group(group)?;
        if group.policy.source(group.tuning.load) == Source::Connections {
            tracker::start(directory, &maps)?;
        }
        fill(&mut Self::open_directory(name, directory.to_owned())?)?;
        Logs::open(&mut ebpf)
    }

    /// Opens a pinned group.
    ///
    /// # Errors
    /// Where there is none of that name, or its pins are not root's alone.
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        Self::open_directory(name, store.pins_of(name)?)
    }

    fn open_directory(name: &str, directory: PathBuf) -> Result<Self> {
        let maps = Box::new(Maps::open(&directory)?);
        let inode = store::inode(&directory)?;
        Ok(Self { name: name.to_owned(), directory, inode, maps })
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The group's record.
    ///
    /// # Errors
    /// Where it is not of this build's making.
    pub fn group(&self) -> Result<Group> {
        self.maps.group().with_context(|| format!("cannot use the group {}", self.name))
    }

    /// Waits for, then has, the group's state to itself: everything that changes it asks for it.
    ///
    /// `None` where its pins are gone: it was given back to the kernel, and nobody else can open
    /// it to change it.
    ///
    /// # Errors
    /// Where the pins are there and cannot be locked.
    pub fn lock(&self) -> Result<Option<Lock>> {
        store::lock(&self.directory, self.inode)
    }

    /// The slots that somebody has.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn members(&self) -> Result<Vec<Member>> {
        let mut members = self.all_slots()?;
        members.retain(|member| member.state != SlotState::Vacant);
        Ok(members)
    }

    /// Every slot that was ever used, vacant ones included.
    fn all_slots(&self) -> Result<Vec<Member>> {
        let records = (0..).zip(self.maps.members.read()?);
        Ok(records.filter(|(_, record)| record.cookie != 0).map(Member::from).collect())
    }

    /// Registers a listening socket in a slot of its own, not in the table yet. The slot is one
    /// never used while there is one, so that counters of late workers stay readable.
    ///
    /// # Errors
    /// Where all slots are taken, or the kernel refuses the socket.
    pub fn seat(&mut self, socket: BorrowedFd<'_>, weight: Weight) -> Result<u32> {
        let mut records = self.maps.members.read()?;
        let slot = self.vacant_slot(&records)?;
        records[slot as usize] = MemberRecord {
            cookie: SockRef::from(&socket).cookie().context("cannot read a socket's cookie")?,
            inode: rustix::fs::fstat(socket).context("cannot stat a socket")?.st_ino,
            weight: weight.get(),
            state: SlotState::Starting as u8,
            key: free_key(&records),
            ..MemberRecord::default()
        };
        self.maps.clear_counters(slot)?;
        self.maps.set_socket(slot, socket)?;
        // Only then: a socket that is refused is another slot's.
        self.place_listener(socket, slot)?;
        self.maps.members.write(&records)?;
        Ok(slot)
    }

    fn vacant_slot(&self, records: &[MemberRecord]) -> Result<u32> {
        let find = |wanted: fn(&MemberRecord) -> bool| {
            (0..).zip(records).find(|(_, record)| wanted(record)).map(|(slot, _)| slot)
        };
        find(|record| record.cookie == 0)
            .or_else(|| {
                // Not while connections are counted on it.
                let tracked = self.is_tracked();
                (0..).zip(records).find_map(|(slot, record)| {
                    let vacant = record.state == SlotState::Vacant as u8;
                    let open = if tracked { load::open(self.maps.connections(slot)) } else { 0 };
                    (vacant && open == 0).then_some(slot)
                })
            })
            .with_context(|| format!("all {} slots of {} are taken", records.len(), self.name))
    }

    /// Notes the process that accepts from a slot.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn set_worker(&mut self, slot: u32, worker: Identity) -> Result<()> {
        self.change(slot, |record| {
            record.pid = worker.pid;
            record.start = worker.start;
        })
    }

    /// Changes a member's weight; takes effect with [`Steering::publish`].
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn set_weight(&mut self, slot: u32, weight: Weight) -> Result<()> {
        self.change(slot, |record| record.weight = weight.get())
    }

    /// Lets the members of two slots have each other's clients; takes effect with
    /// [`Steering::publish`].
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn swap_keys(&mut self, one: u32, other: u32) -> Result<()> {
        let mut records = self.maps.members.read()?;
        let (one, other) = (one as usize, other as usize);
        (records[one].key, records[other].key) = (records[other].key, records[one].key);
        self.maps.members.write(&records)
    }

    /// Moves a slot through its life; takes effect with [`Steering::publish`]. Who goes live the first
    /// time, and beside others in the table, is new: see [`Steering::grow`].
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn set_state(&mut self, slot: u32, state: SlotState) -> Result<()> {
        let now = if self.maps.is_table_empty()? { 0 } else { publishing::since_boot() };
        self.change(slot, |record| {
            if record.state == SlotState::Starting as u8 && state == SlotState::Live {
                record.since = now;
            }
            record.state = state as u8;
        })?;
        // What was in its queue is in those of others.
        if state == SlotState::Vacant { self.wake_heirs() } else { Ok(()) }
    }

    fn change(&mut self, slot: u32, change: impl FnOnce(&mut MemberRecord)) -> Result<()> {
        let mut records = self.maps.members.read()?;
        change(&mut records[slot as usize]);
        self.maps.members.write(&records)
    }

    /// Takes a member out of its slot; takes effect with [`Steering::publish`]. Its socket leaves
    /// the array too, or it could never be seated again.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn vacate(&mut self, slot: u32) -> Result<()> {
        self.maps.clear_socket(slot)?;
        self.set_state(slot, SlotState::Vacant)
    }

    /// Switches the policy and its options: table, then program, each in one step.
    ///
    /// # Errors
    /// Where the program is refused, or no member's socket can be borrowed to attach it through.
    pub fn set_policy(&mut self, policy: Policy, tuning: Tuning) -> Result<()> {
        let group = self.group()?;
        let wanted = Group { policy, tuning, ..group };
        if let Some(program) = Program::of(&wanted)?
            && !program.pin(&self.directory).exists()
        {
            object::load(&self.directory, &wanted)?;
        }
        let tracked = policy.source(tuning.load) == Source::Connections;
        if tracked && !self.is_tracked() {
            tracker::start(&self.directory, &self.maps)?;
            self.place_listeners()?;
        }
        let socket = self.borrow_any_socket()?;
        if socket.is_none() && self.has_sockets()? {
            bail!(
                "the group {} has sockets, but nobody is seen to hold them, so its program cannot \
                 be changed; run this as root, in the PID namespace of its workers",
                self.name
            );
        }
        self.maps.set_group(&wanted)?;
        self.publish()?;
        // Without a socket the kernel's group is gone; its next first socket gets the program.
        let attached = socket.map_or(Ok(()), |socket| self.attach(socket.as_fd()));
        if attached.is_err() {
            self.maps.set_group(&group)?;
            self.publish()?;
        }
        if !tracked && attached.is_ok() {
            tracker::stop(&self.directory)?;
        }
        attached
    }

    /// Whether a member's socket is still in its slot.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn is_seated(&self, member: &Member) -> Result<bool> {
        Ok(self.maps.socket(member.slot)? == Some(member.cookie))
    }

    /// Whether any member has a socket, so that the kernel's group exists.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn has_sockets(&self) -> Result<bool> {
        for member in self.members()? {
            if self.maps.socket(member.slot)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The lowest key that nobody present has: of whom it was before, a newcomer takes the place.
fn free_key(records: &[MemberRecord]) -> u32 {
    let present = |record: &&MemberRecord| record.state != SlotState::Vacant as u8;
    let taken: HashSet<u32> = records.iter().filter(present).map(|record| record.key).collect();
    (0..).find(|key| !taken.contains(key)).unwrap_or_default()
}

impl From<(u32, MemberRecord)> for Member {
    fn from((slot, record): (u32, MemberRecord)) -> Self {
        Self {
            slot,
            worker: Identity { pid: record.pid, start: record.start },
            weight: Weight::from_record(record.weight),
            state: SlotState::from_number(record.state),
            cookie: record.cookie,
            inode: record.inode,
            key: record.key,
            since: record.since,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Somebody in a slot.
    pub fn member(slot: u32, cookie: u64) -> Member {
        let state = SlotState::Live as u8;
        Member::from((slot, MemberRecord { cookie, state, weight: 1, ..MemberRecord::default() }))
    }
}
