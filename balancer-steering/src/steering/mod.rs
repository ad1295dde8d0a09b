//! One group's loaded maps and attached program. Only this module and its children use aya.
//!
//! All state is in pinned maps, so a [`Steering`] is opened by any process that may, does its work
//! under [`Steering::lock`], and is dropped again; nothing is cached between two calls.

mod agent;
mod attachment;
mod bpf;
mod cgroup;
mod change;
mod counting;
mod directory;
mod experiment;
mod flows;
mod host;
mod listens;
mod loads;
mod lock;
mod logs;
mod maps;
mod object;
mod observing;
mod occupied;
mod offsets;
mod publishing;
mod records;
mod remaining;
mod reported;
mod service;
mod settings;
mod shared;
mod slots;
mod state;
mod stats;
mod store;
mod tracker;
mod trust;
mod undisturbed;
mod waking;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use crate::error::{Context as _, Error, Result};
use balancer_common::{
    MAX_GROUPS,
    load::Source,
    record::{MemberRecord, SlotState},
};

pub use self::{
    cgroup::check as check_cgroup,
    change::{Change, change_all},
    experiment::{Abandoned, Experiment},
    listens::Listens,
    lock::Lock,
    logs::{DEBUG as LOG_DEBUG, Logs},
    maps::WorkerMaps,
    object::bytes as object_bytes,
    observing::Observation,
    occupied::{Occupant, SocketMaps, keepers},
    offsets::offsets_in,
    publishing::entry,
    remaining::{About, Remaining, Watch},
    reported::Reporter,
    service::join as join_service,
    stats::{Measuring, Runs, measure_runs},
    store::{DEFAULT_BPFFS, Store, is_bpffs},
};
use self::{host::Host, lock::Wait, maps::Maps};
use crate::{
    group::{GroupSpec, Protocol},
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
    weight::Weight,
};

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
    host: Host,
    /// If this process is the group's agent.
    agent: Option<Lock>,
}

impl Steering {
    /// Loads maps and the policy's program, lets `fill` register who is there already, and pins it all
    /// in one step. Nothing is attached yet. If connections are to be counted and cannot be, that is
    /// said, and they are not.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses a map or the program, `fill` fails, the name is taken, or
    /// the policy goes by connections and they cannot be counted. Nothing stays pinned.
    pub fn create(
        store: &Store,
        name: &str,
        group: &GroupSpec,
        fill: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<(Self, Logs)> {
        let _lock = store.lock_host()?;
        let unfinished = store.begin()?;
        let created = Self::create_in(store, &unfinished, name, group, fill)
            .and_then(|made| Ok((store.publish(&unfinished, name)?, made)));
        match created {
            Ok((directory, (agent, logs))) => {
                Ok((Self { agent, ..Self::open_directory(name, directory)? }, logs))
            }
            Err(error) => {
                store.abandon(&unfinished)?;
                Err(error)
            }
        }
    }

    fn create_in(
        store: &Store,
        directory: &Path,
        name: &str,
        group: &GroupSpec,
        fill: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<(Option<Lock>, Logs)> {
        let host = store.host();
        host.prepare()?;
        let mut group = GroupSpec { index: free_index(store)?, ..*group };
        let tcp = group.identity.protocol == Protocol::Tcp;
        group.flows = group.flows.filter(|_| !tcp);
        group.counted = if tcp { group.counted } else { group.flows.is_some() };
        if group.counted
            && tcp
            && let Err(error) = host.count()
        {
            if group.policy.source(group.options.load) == Source::Connections {
                return Err(Error::of(
                    error,
                    format_args!(
                        "the policy {} compares open connections; choose another, such as round-robin",
                        group.policy.name()
                    ),
                ));
            }
            tracing::warn!(
                "{error:#}; so open connections are not shown, and stalled workers are not left out"
            );
            group.counted = false;
        }
        if observing::needs_tracker(&group) {
            observing::start(store, &host)?;
        }
        let mut ebpf = object::load(directory, &group)?;
        if let Some(flows) = group.flows {
            flows::start(directory, &group).with_context(|| {
                format!(
                    "{} flows cannot be followed, since their answers cannot be seen; steer each datagram by \
                     itself",
                    flows.room()
                )
            })?;
        }
        let mut maps = Maps::open(directory)?;
        maps.set_group(&group)?;
        // Of an earlier one of that number whose end was cut short.
        let _ = std::fs::remove_dir(host.agent(group.index));
        host.set_group(group.index, maps.loads.map())?;
        fill(&mut Self::open_directory(name, directory.to_owned())?)?;
        let agent =
            (group.agent.pid != 0).then(|| agent::prove(&host.agent(group.index))).transpose()?;
        Ok((agent, Logs::open(&mut ebpf)?))
    }

    /// Opens a pinned group.
    ///
    /// # Errors
    /// Returns an error if there is none of that name, or its pins are not root's alone.
    pub fn open(store: &Store, name: &str) -> Result<Self> {
        Self::open_directory(name, store.pins_of(name)?)
    }

    fn open_directory(name: &str, directory: PathBuf) -> Result<Self> {
        let maps = Box::new(Maps::open(&directory)?);
        let (inode, host) = (directory::inode(&directory)?, Host::of(&directory));
        Ok(Self { name: name.to_owned(), directory, inode, maps, host, agent: None })
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The group's record.
    ///
    /// # Errors
    /// Returns an error if it is not of this build's making.
    pub fn group(&self) -> Result<GroupSpec> {
        self.maps.group().with_context(|| format!("cannot use the group {}", self.name))
    }

    /// The group's lock, which everything takes that changes its state. Waits some seconds for another
    /// command; so an agent calls it only before it has anything else to do.
    ///
    /// `None` if its pins are gone: it was given back to the kernel, and no other process can open
    /// it to change it.
    ///
    /// # Errors
    /// Names the process that has the lock and keeps it; or if the pins are there and cannot be locked.
    pub fn lock(&self) -> Result<Option<Lock>> {
        lock::group(&self.directory, self.inode, Wait::Some)
    }

    /// As [`Steering::lock`], for a caller that has nothing to do without the group.
    ///
    /// # Errors
    /// As [`Steering::lock`]; also, of the kind [`Gone`](crate::error::ErrorKind::Gone), if its pins are
    /// gone.
    pub fn lock_or_gone(&self) -> Result<Lock> {
        self.lock()?.ok_or_else(|| Error::gone(&self.name))
    }

    /// As [`Steering::lock`], for an agent: does not wait.
    ///
    /// # Errors
    /// As [`Steering::lock`]; of the kind [`Busy`](crate::error::ErrorKind::Busy) if another try may succeed.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        lock::group(&self.directory, self.inode, Wait::None)
    }

    /// Whether its pins are there: it was not given back to the kernel. Stays so while the caller has the
    /// lock.
    pub fn is_pinned(&self) -> bool {
        directory::inode(&self.directory).is_ok_and(|inode| inode == self.inode)
    }

    /// The slots that somebody has.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
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

    /// Notes the process that accepts from a slot.
    ///
    /// # Errors
    /// Returns an error if a map cannot be written.
    pub fn set_worker(&mut self, slot: u32, worker: Identity) -> Result<()> {
        self.edit(slot, |record| change::note_worker(record, worker))
    }

    /// Changes a member's weight; takes effect with [`Steering::publish`].
    ///
    /// # Errors
    /// Returns an error if a map cannot be written.
    pub fn set_weight(&mut self, slot: u32, weight: Weight) -> Result<()> {
        self.edit(slot, |record| record.weight = weight.get())
    }

    /// Moves a slot through its life; takes effect with [`Steering::publish`]. Who goes live the first
    /// time, and beside others in the table, is new: see [`Steering::grow`].
    ///
    /// # Errors
    /// Returns an error if a map cannot be written.
    pub fn set_state(&mut self, slot: u32, state: SlotState) -> Result<()> {
        let now = if self.maps.is_table_empty()? { 0 } else { publishing::since_boot() };
        self.edit(slot, |record| change::move_to(record, state, now))?;
        if state == SlotState::Vacant {
            self.maps.end_tenancy(slot)?;
            // What was in its queue is in those of others.
            self.wake_heirs()?;
        }
        Ok(())
    }

    fn edit(&mut self, slot: u32, change: impl FnOnce(&mut MemberRecord)) -> Result<()> {
        let mut records = self.maps.members.read()?;
        change(&mut records[slot as usize]);
        self.maps.members.write(&records)
    }

    /// Takes a member out of its slot; takes effect with [`Steering::publish`]. Its socket leaves
    /// the array too, or it could never be seated again.
    ///
    /// # Errors
    /// Returns an error if a map cannot be written.
    pub fn vacate(&mut self, slot: u32) -> Result<()> {
        self.maps.clear_socket(slot)?;
        self.set_state(slot, SlotState::Vacant)
    }

    /// Switches the policy and its options: table, then program, each in one step.
    ///
    /// # Errors
    /// As [`Steering::change`]; also if no member's socket can be borrowed to attach the program through.
    pub fn set_policy(&mut self, policy: Policy, options: PolicyOptions) -> Result<()> {
        self.change(|change| {
            change.set_policy(policy, options);
            Ok(())
        })
    }

    /// Whether a member's socket is still in its slot.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn is_seated(&self, member: &Member) -> Result<bool> {
        Ok(self.maps.socket(member.slot)? == Some(member.cookie))
    }

    /// Whether any member has a socket, so that the kernel's group exists.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn has_sockets(&self) -> Result<bool> {
        for member in self.members()? {
            if self.maps.socket(member.slot)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The lowest index that no group of the host has. Under the host's lock.
fn free_index(store: &Store) -> Result<u32> {
    let index = |name: &String| Some(Steering::open(store, name).ok()?.group().ok()?.index);
    let taken: HashSet<u32> = store.names()?.iter().filter_map(index).collect();
    (0..MAX_GROUPS)
        .find(|index| !taken.contains(index))
        .with_context(|| format!("{MAX_GROUPS} groups are steered already, which is the limit"))
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
