//! An experiment on a group: for a time its policy is another's to switch, and what was in force is noted
//! where it outlives the experimenter, so that any command and the agent can put it back.
//!
//! The note is a map of one record, pinned in a directory below the group's. The experimenter has the lock
//! of that directory for as long as it lives, whichever way it ends. A directory that nobody has locked is
//! an experiment that was abandoned.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use balancer_common::record::GroupRecord;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{Steering, bpf, directory, maps};
use crate::{
    error::{Context as _, Error, ErrorKind, Result, bail},
    group::GroupSpec,
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
};

const DIRECTORY: &str = "experiment";
const BEFORE: &str = "BEFORE";

/// The right to switch a group's policy for a time. When it is dropped, or its process ends, what was in
/// force is put back by the next command or the agent, unless [`Experiment::end`] has done so.
#[derive(Debug)]
pub struct Experiment {
    directory: PathBuf,
    lock: File,
    before: (Policy, PolicyOptions),
}

/// An experiment whose process ended before it went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// The process that had begun it.
    pub experimenter: Identity,
    /// The policy that was in force before, and is again.
    pub policy: Policy,
    /// And its options.
    pub options: PolicyOptions,
}

impl Steering {
    /// Begins an experiment by this process, and notes what is in force. What an earlier one has left is
    /// put back first.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Busy`] if another experiment goes on, [`ErrorKind::Gone`] if the group was given
    /// back to the kernel, or an error if the kernel refuses.
    pub fn begin_experiment(&mut self, own: Identity) -> Result<Experiment> {
        let _lock = self.lock_or_gone()?;
        self.restore_locked()?;
        let place = self.directory.join(DIRECTORY);
        if place.exists() {
            return Err(Error::busy(format_args!(
                "the group {} is in an experiment already; wait until that has ended",
                self.name
            )));
        }
        directory::make_directory(&place)?;
        let begun = note(&place, &GroupSpec { agent: own, ..self.group()? });
        if begun.is_err() {
            directory::remove_directory(&place)?;
        }
        let (lock, before) = (begun?, self.group()?);
        Ok(Experiment { directory: place, lock, before: (before.policy, before.options) })
    }

    /// Puts back what was in force before an experiment whose process has ended; `None` if there is none.
    /// A command waits for the group's lock.
    ///
    /// # Errors
    /// Returns an error if the lock cannot be had, or the kernel refuses.
    pub fn restore(&mut self) -> Result<Option<Abandoned>> {
        if !self.directory.join(DIRECTORY).exists() {
            return Ok(None);
        }
        let Some(_lock) = self.lock()? else { return Ok(None) };
        self.restore_locked()
    }

    /// As [`Steering::restore`], for an agent: does not wait, since its next look can do it.
    ///
    /// # Errors
    /// As [`Steering::restore`].
    pub fn try_restore(&mut self) -> Result<Option<Abandoned>> {
        if !self.directory.join(DIRECTORY).exists() {
            return Ok(None);
        }
        match self.try_lock() {
            Err(error) if error.kind() == ErrorKind::Busy => Ok(None),
            Err(error) => Err(error),
            Ok(None) => Ok(None),
            Ok(Some(_lock)) => self.restore_locked(),
        }
    }

    fn restore_locked(&mut self) -> Result<Option<Abandoned>> {
        let place = self.directory.join(DIRECTORY);
        let Some(_owner) = open(&place)?.filter(is_free) else { return Ok(None) };
        // One that was killed before it had noted anything has changed nothing.
        let before = read(&place)?;
        if let Some(before) = &before {
            self.put_in_force(before.policy, before.options)?;
        }
        self.maps.loads.advance_era(false);
        directory::remove_directory(&place)?;
        Ok(before.map(|before| Abandoned {
            experimenter: before.agent,
            policy: before.policy,
            options: before.options,
        }))
    }

    /// Ends an experiment of another process, if there is one, and leaves in force what is: the operator
    /// wants something else. That process finds out before it switches again.
    ///
    /// # Errors
    /// Returns an error if the lock cannot be had, or the note cannot be removed.
    pub fn supersede_experiment(&self) -> Result<bool> {
        let place = self.directory.join(DIRECTORY);
        if !place.exists() {
            return Ok(false);
        }
        let Some(_lock) = self.lock()? else { return Ok(false) };
        let there = place.exists();
        self.maps.loads.advance_era(false);
        directory::remove_directory(&place)?;
        Ok(there)
    }

    fn put_in_force(&mut self, policy: Policy, options: PolicyOptions) -> Result<()> {
        let group = self.group()?;
        if (group.policy, group.options) == (policy, options) {
            return Ok(());
        }
        self.change_locked(|change| {
            change.set_policy(policy, options);
            Ok(())
        })
    }
}

impl Experiment {
    /// What was in force before it.
    pub fn before(&self) -> (Policy, PolicyOptions) {
        self.before
    }

    /// Switches the group's policy; false if the experiment is over, because another command has changed
    /// the policy or given the group back. Then nothing is changed.
    ///
    /// # Errors
    /// As [`Steering::change`].
    pub fn switch(
        &self,
        steering: &mut Steering,
        policy: Policy,
        options: PolicyOptions,
    ) -> Result<bool> {
        let Some(_lock) = steering.lock()? else { return Ok(false) };
        if !self.is_ours()? {
            return Ok(false);
        }
        steering.put_in_force(policy, options)?;
        Ok(true)
    }

    /// Counts apart, from now on, answers on connections that are established from now on: see
    /// [`Requests::apart_to_answer`](crate::requests::Requests::apart_to_answer). False as
    /// [`Experiment::switch`].
    ///
    /// # Errors
    /// Returns an error if the group's lock cannot be had.
    pub fn tell_apart(&self, steering: &Steering) -> Result<bool> {
        let Some(_lock) = steering.lock()? else { return Ok(false) };
        if !self.is_ours()? {
            return Ok(false);
        }
        steering.maps.loads.advance_era(true);
        Ok(true)
    }

    /// Puts back what was in force, and removes the note; false as [`Experiment::switch`].
    ///
    /// # Errors
    /// As [`Experiment::switch`]. The next command or the agent tries again.
    pub fn end(self, steering: &mut Steering) -> Result<bool> {
        let Some(_lock) = steering.lock()? else { return Ok(false) };
        if !self.is_ours()? {
            return Ok(false);
        }
        let (policy, options) = self.before;
        steering.put_in_force(policy, options)?;
        steering.maps.loads.advance_era(false);
        directory::remove_directory(&self.directory)?;
        Ok(true)
    }

    /// Whether the note is still the one that this process has made. Under the group's lock.
    fn is_ours(&self) -> Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let inode = |metadata: io::Result<fs::Metadata>| metadata.ok().map(|m| m.ino());
        let own = inode(self.lock.metadata());
        Ok(own.is_some() && own == inode(fs::metadata(&self.directory)))
    }
}

/// Locks the directory of an experiment, then notes in it what was in force.
fn note(place: &Path, before: &GroupSpec) -> Result<File> {
    let Some(lock) = open(place)? else {
        bail!("{} was removed by another process; try again", place.display())
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(Error::busy("another experiment goes on")),
        Err(error) => return Err(error).context("cannot lock the experiment's directory"),
    }
    let size = u32::try_from(size_of::<GroupRecord>())?;
    let map = bpf::create_array(size).context("the kernel refuses a map for an experiment")?;
    let data = MapData::from_fd(map.try_clone()?)?;
    let mut array: Array<MapData, GroupRecord> = Array::try_from(Map::Array(data))?;
    array.set(0, GroupRecord::from(*before), 0).context("cannot note what is in force")?;
    let pin = place.join(BEFORE);
    bpf::pin(map.as_fd(), &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
    Ok(lock)
}

/// What was noted; `None` if nothing was.
fn read(place: &Path) -> Result<Option<GroupSpec>> {
    if !place.join(BEFORE).exists() {
        return Ok(None);
    }
    let data = maps::pinned(place, BEFORE)?;
    let array: Array<MapData, GroupRecord> =
        Array::try_from(Map::Array(data)).with_context(|| maps::unfit(BEFORE))?;
    let record = array.get(&0, 0).context("cannot read what was in force before an experiment")?;
    Ok(Some(record.try_into()?))
}

fn open(place: &Path) -> Result<Option<File>> {
    match File::open(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).with_context(|| format!("cannot open {}", place.display())),
    }
}

/// Takes the lock of an experiment, if no living process has it.
fn is_free(directory: &File) -> bool {
    flock(directory, FlockOperation::NonBlockingLockExclusive).is_ok()
}
