//! How much each slot has to do, as the programs and the workers see it.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use balancer_ebpf::{load, maps};

use super::{Steering, shared::SharedWords};
use crate::tuning::Load;

impl Steering {
    /// How many connections a slot's worker has open, as far as they are counted.
    pub fn open_connections(&self, slot: u32) -> u64 {
        load::open(self.maps.connections(slot)).into()
    }

    /// How many connections count for a slot where loads are compared: open, and on their way.
    pub fn counted_connections(&self, slot: u32) -> u64 {
        load::connections(self.maps.connections(slot))
    }

    /// Where a worker may say its load, to be mapped into its memory; `None` in a group that does not go
    /// by that.
    ///
    /// # Errors
    /// Where the map cannot be opened.
    pub fn report_descriptor(&self) -> Result<Option<OwnedFd>> {
        if self.group()?.tuning.load != Load::Reported {
            return Ok(None);
        }
        let path = self.directory.join(maps::REPORTED);
        let map = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
        Ok(Some(map.fd().as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?))
    }

    /// Says a slot's load in its worker's place, see [`crate::tuning::Load::Reported`].
    ///
    /// # Errors
    /// Where the map cannot be opened.
    pub fn report(&self, slot: u32, load: u64) -> Result<()> {
        self.reports()?.set(slot as usize, load);
        Ok(())
    }

    /// What a slot's worker says its load is.
    ///
    /// # Errors
    /// Where the map cannot be opened.
    pub fn reported(&self, slot: u32) -> Result<u64> {
        Ok(self.reports()?.get(slot as usize))
    }

    fn reports(&self) -> Result<SharedWords> {
        SharedWords::open(&self.directory.join(maps::REPORTED), 1)
    }
}
