//! The agent of a group, in its record: what it tells, and how another comes after it.

use anyhow::Result;

use super::{Logs, Steering, object};
use crate::{agent::AgentState, group::Group, process::Identity};

impl Steering {
    /// What the agent tells; whole, where the caller has the [`Steering::lock`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn agent_state(&self) -> Result<AgentState> {
        self.maps.agent().map(AgentState::from)
    }

    /// Changes what the agent tells.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn tell(&mut self, change: impl FnOnce(&mut AgentState)) -> Result<()> {
        let mut state = self.agent_state()?;
        change(&mut state);
        self.maps.set_agent(&(&state).into())
    }

    /// Makes a process the group's agent. What is pinned and attached stays as it is.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub fn set_agent(&mut self, agent: Identity) -> Result<()> {
        let group = self.group()?;
        self.maps.set_group(&Group { agent, ..group })
    }

    /// The log of the group's programs, for its new agent.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn logs(&self) -> Result<Logs> {
        Logs::open(&mut object::load_watcher(&self.directory)?)
    }
}
