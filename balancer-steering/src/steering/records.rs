//! The members' records: one value of 96 KiB, read into the heap and written from there. aya's own
//! look-up hands a value on by value, from function to function: where nothing is optimized that took
//! nearly all of the 2 MiB that a thread's stack has.

use std::{os::fd::AsFd as _, path::Path};

use crate::error::{Context as _, Result, ensure};
use aya::maps::MapData;
use balancer_common::{
    MAX_SLOTS, maps,
    record::{MemberRecord, MemberRecords},
};

use super::bpf;

/// The pinned map.
pub(super) struct Records(MapData);

impl Records {
    /// Opens them under a group's directory.
    ///
    /// # Errors
    /// Returns an error if they are not there, or of another size.
    pub fn open(directory: &Path) -> Result<Self> {
        let map = super::maps::pinned(directory, maps::MEMBERS)?;
        let info = map.info().context("cannot query the map of the members' records")?;
        ensure!(
            (info.key_size() as usize, info.value_size() as usize)
                == (size_of::<u32>(), size_of::<MemberRecords>()),
            "{}",
            super::maps::unfit(maps::MEMBERS)
        );
        Ok(Self(map))
    }

    /// Reads all, one a slot.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> Result<Box<[MemberRecord]>> {
        let mut records = vec![MemberRecord::default(); MAX_SLOTS as usize].into_boxed_slice();
        // SAFETY: `open` has made sure that the value is as long, and any octets will do for a record.
        unsafe { bpf::look_up(self.0.fd().as_fd(), 0, records.as_mut_ptr()) }
            .context("cannot read the members' records")?;
        Ok(records)
    }

    /// Writes all.
    ///
    /// # Errors
    /// Returns an error if they are not one a slot; and the kernel's.
    pub fn write(&mut self, records: &[MemberRecord]) -> Result<()> {
        ensure!(size_of_val(records) == size_of::<MemberRecords>(), "members' records are missing");
        // SAFETY: as above.
        unsafe { bpf::update(self.0.fd().as_fd(), 0, records.as_ptr()) }
            .context("cannot write the members' records")
    }
}
