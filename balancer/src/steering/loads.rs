//! How much each slot has to do, as the programs and the workers see it.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use balancer_ebpf::load;

use super::Steering;
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
    /// Where no descriptor is to be had.
    pub fn report_descriptor(&self) -> Result<Option<OwnedFd>> {
        if self.group()?.tuning.load != Load::Reported {
            return Ok(None);
        }
        self.maps.reported.descriptor().map(Some).context("cannot duplicate a descriptor")
    }

    /// Says a slot's load in its worker's place, see [`Load::Reported`].
    pub fn report(&self, slot: u32, load: u64) {
        self.maps.reported.set(slot as usize, load);
    }

    /// What a slot's worker says its load is.
    pub fn reported(&self, slot: u32) -> u64 {
        self.maps.reported.get(slot as usize)
    }
}
