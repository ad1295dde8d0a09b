//! The agent of a group: what it tells, how it proves that it is the agent, and how another comes after
//! it. The proof is a lock on a directory that only root can open: a process number in a record could
//! be anybody's, and no record is worth a signal of root's.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{Lock, Logs, Steering, directory, lock, object};
use crate::{
    agent_record::AgentState,
    error::{Context as _, Result, bail},
    group::GroupSpec,
    process::{self, Identity},
};

/// A listing of all locks is no snapshot: one that is there may be left out while others go.
const LOOKS: usize = 3;

/// Makes this process an agent for as long as it has the lock of that directory.
///
/// # Errors
/// Returns an error if another process is its agent.
pub(super) fn prove(path: &Path) -> Result<Lock> {
    directory::make_directory(path)?;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock::of(file)),
        Err(Errno::WOULDBLOCK) => bail!("another process is its agent: it has {}", path.display()),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

impl Steering {
    /// What the agent tells; whole, where the caller has the [`Steering::lock`].
    ///
    /// # Errors
    /// Returns an error if the map cannot be read.
    pub fn agent_state(&self) -> Result<AgentState> {
        self.maps.agent().map(AgentState::from)
    }

    /// Changes what the agent tells.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn tell(&mut self, change: impl FnOnce(&mut AgentState)) -> Result<()> {
        let mut state = self.agent_state()?;
        change(&mut state);
        self.maps.set_agent(&(&state).into())
    }

    /// Makes this process the group's agent. What is pinned and attached stays as it is.
    ///
    /// # Errors
    /// Returns an error if another process is, or a map cannot be written.
    pub fn set_agent(&mut self, own: Identity) -> Result<()> {
        let group = self.group()?;
        self.agent = Some(prove(&self.host.agent(group.index))?);
        self.maps.set_group(&GroupSpec { agent: own, ..group })
    }

    /// The process that proves to be the group's agent, and a handle to send it signals by; `None` if
    /// none is seen.
    ///
    /// # Errors
    /// Returns an error if the locks cannot be read.
    pub fn agent(&self) -> Result<Option<(Identity, OwnedFd)>> {
        let path = self.host.agent(self.group()?.index);
        let locked = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.with_context(|| format!("cannot stat {}", path.display()))?,
        };
        for _ in 0..LOOKS {
            let pid = lock::owner(&locked)?;
            let Some(agent) = pid.and_then(Identity::of) else { continue };
            let Ok(handle) = process::handle(agent) else { continue };
            // Else the agent may have ended, and the handle be on a process that came by its number.
            if lock::owner(&locked)? == pid {
                return Ok(Some((agent, handle)));
            }
        }
        Ok(None)
    }

    /// The log of the group's programs, for its new agent.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub fn logs(&self) -> Result<Logs> {
        Logs::open(&mut object::load_over(&self.directory, &self.group()?)?)
    }
}
