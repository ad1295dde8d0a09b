//! The request tracker: on while somebody observes requests, or a group's policy or options need it; one
//! for all groups of the host.
//!
//! An observer is a process that has the lock of a directory, shared with other observers. The kernel
//! releases it when the process ends, however it does. The tracker is taken off by the first that finds
//! neither an observer nor a group that needs it: the last observer at its end, a change of policy, or an
//! agent that looks now and then.

use std::{collections::HashSet, fs::File};

use balancer_common::request;
use rustix::fs::{FlockOperation, flock};

use super::{
    Member, Steering, Store,
    host::Host,
    lock::{self, Wait},
    tracker::{Times, TimesElements},
};
use crate::{
    bounds::{BoundedRequests, Bounds},
    error::{Context as _, ErrorKind, Result, bail},
    group::{GroupSpec, Protocol},
    options,
    requests::Requests,
};

/// Keeps the request tracker on, for all groups of the host, until it is dropped or the process ends. Of
/// several observers the last one's end takes it off, unless a group needs it.
#[derive(Debug)]
pub struct Observation {
    store: Store,
    observer: Option<File>,
}

impl Store {
    /// Lets requests be observed from now on. Linux 6.3; needs CAP_BPF, CAP_PERFMON and the kernel's BTF.
    ///
    /// # Errors
    /// Returns an error if no group is steered, or the kernel is older or refuses a program.
    pub fn observe(&self) -> Result<Observation> {
        if self.names()?.is_empty() {
            bail!("requests cannot be observed, because no group is steered");
        }
        let _lock = self.lock_host()?;
        let host = self.host();
        host.prepare()?;
        let observer = host.observers()?;
        flock(&observer, FlockOperation::NonBlockingLockShared)
            .context("cannot register as an observer of requests")?;
        start(self, &host)?;
        Ok(Observation { store: self.clone(), observer: Some(observer) })
    }

    /// Whether requests are tracked now, whoever observes them.
    pub fn is_tracking(&self) -> bool {
        self.host().is_tracking()
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        drop(self.observer.take());
        // If the lock is taken, whoever has it or comes next will do.
        if let Ok(_lock) = lock::host(&self.store.directory("group"), Wait::None) {
            let _ = stop_if_unneeded(&self.store, &self.store.host());
        }
    }
}

impl Steering {
    /// What is known of the requests of each member, by slot; `None` while nobody observes them.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn requests(&self) -> Result<Option<Vec<Requests>>> {
        if !self.host.is_tracking() {
            return Ok(None);
        }
        let times = self.host.times()?;
        let mut all = Vec::new();
        for member in self.members()? {
            let slot = member.slot;
            let [to_answer, to_read, to_first, apart_to_answer, apart_to_read] = self
                .times_of(slot, &times)
                .map_or_else(Default::default, |index| times.read(index));
            all.push(Requests {
                slot,
                tenant: self.maps.loads.tenant(slot),
                busy: self.busy(slot),
                owing: self.owing(slot),
                to_answer,
                to_read,
                to_first,
                apart_to_answer,
                apart_to_read,
            });
        }
        Ok(Some(all))
    }

    /// As [`Steering::requests`], counted between bounds: for whoever asks often, and of many members.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read.
    pub fn bounded_requests(&self, bounds: &Bounds) -> Result<Option<Vec<BoundedRequests>>> {
        if !self.host.is_tracking() {
            return Ok(None);
        }
        let times = self.host.times()?;
        let of_member = |member: Member| {
            let slot = member.slot;
            let [to_answer, to_read, to_first] = match self.times_of(slot, &times) {
                Some(index) => times.fold(index, bounds),
                None => [(); 3].map(|()| bounds.fold(|_| 0)),
            };
            BoundedRequests { slot, owing: self.owing(slot), to_answer, to_read, to_first }
        };
        Ok(Some(self.members()?.into_iter().map(of_member).collect()))
    }

    /// Where the times of a slot are counted; `None` if they are not.
    fn times_of(&self, slot: u32, times: &Times) -> Option<u64> {
        self.maps.loads.times(slot).checked_sub(1).filter(|&index| index < times.count())
    }

    /// Connections of a slot that owe an answer, and those on which nothing has come yet; 0 while requests
    /// are not tracked.
    pub(super) fn busy(&self, slot: u32) -> u64 {
        let work = self.maps.loads.work(slot);
        u64::from(request::owing(work)) + u64::from(request::new(work))
    }

    fn owing(&self, slot: u32) -> u64 {
        request::owing(self.maps.loads.work(slot)).into()
    }

    /// Whether requests are tracked now.
    pub fn is_tracking(&self) -> bool {
        self.host.is_tracking()
    }

    /// Starts the tracker if the group as it is to be needs it. Under the group's lock.
    pub(super) fn track_for(&self, wanted: &GroupSpec) -> Result<()> {
        if !needs_tracker(wanted) || self.host.is_tracking() {
            return Ok(());
        }
        let _lock = lock::host(&self.directory, Wait::Some)?;
        start(&self.store(), &self.host)
    }

    /// Takes the tracker off if nobody needs it any more; later, if another process has the host's lock.
    ///
    /// # Errors
    /// Returns an error if what the host's groups share cannot be read or changed.
    pub fn rest_tracker(&self) -> Result<()> {
        if !self.host.is_tracking() {
            return Ok(());
        }
        match lock::host(&self.directory, Wait::None) {
            Ok(_lock) => stop_if_unneeded(&self.store(), &self.host),
            Err(error) if error.kind() == ErrorKind::Busy => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets the times of a slot's new member be counted, from none.
    pub(super) fn begin_times(&self, slot: u32) -> Result<()> {
        if !self.host.is_tracking() {
            return Ok(());
        }
        let mut elements = self.host.times_elements()?;
        let index = match self.host.take_times(&elements)? {
            Some(index) => Some(index),
            None => self.times_of_others(&elements)?,
        };
        if let Some(index) = index {
            elements.clear(index)?;
            self.maps.loads.set_times(slot, u64::from(index) + 1);
        }
        Ok(())
    }

    /// An element of the times that was given to a member which has left; `None` if there is none, or
    /// another process has the host's lock.
    fn times_of_others(&self, elements: &TimesElements) -> Result<Option<u32>> {
        let _lock = match lock::host(&self.directory, Wait::None) {
            Err(error) if error.kind() == ErrorKind::Busy => return Ok(None),
            lock => lock?,
        };
        let mut taken = HashSet::new();
        for group in groups(&self.store())? {
            for member in group.members()? {
                taken.insert(group.maps.loads.times(member.slot));
            }
        }
        Ok((0..elements.count()).find(|&index| !taken.contains(&(u64::from(index) + 1))))
    }

    fn store(&self) -> Store {
        Store::of(&self.directory)
    }
}

/// Members for whose times there is room in any case.
const SPARE: u32 = 64;

/// Whether a group needs the tracker, even if nobody observes.
pub(super) fn needs_tracker(group: &GroupSpec) -> bool {
    let by_requests =
        group.policy.source(group.options.load) == balancer_common::load::Source::Requests;
    group.identity.protocol == Protocol::Tcp && (group.options.observe || by_requests)
}

/// Starts the tracker unless it is there. Under the host's lock.
pub(super) fn start(store: &Store, host: &Host) -> Result<()> {
    if host.is_tracking() {
        return Ok(());
    }
    options::can_track().context("requests cannot be observed")?;
    // What an earlier one left. Connections tell by its epoch that what they owed then is no matter now.
    let mut members = 0;
    for group in groups(store)? {
        group.maps.loads.forget_requests();
        members += group.members()?.len();
    }
    // As many more may join, and then take the places of those who have left.
    host.start_tracker(u32::try_from(2 * members)? + SPARE)?;
    for group in groups(store)? {
        for member in group.members()? {
            group.begin_times(member.slot)?;
        }
    }
    Ok(())
}

/// Under the host's lock.
fn stop_if_unneeded(store: &Store, host: &Host) -> Result<()> {
    if !host.is_tracking() {
        return Ok(());
    }
    let observers = host.observers()?;
    if flock(&observers, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    for group in groups(store)? {
        if needs_tracker(&group.group()?) {
            return Ok(());
        }
    }
    host.stop_tracker()
}

fn groups(store: &Store) -> Result<Vec<Steering>> {
    // One may go meanwhile.
    Ok(store.names()?.iter().filter_map(|name| Steering::open(store, name).ok()).collect())
}
