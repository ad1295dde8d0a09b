//! The members' records: one value of 96 KiB, read into the heap and written from there. aya's own
//! look-up hands a value on by value, from function to function: where nothing is optimized that took
//! nearly all of the 2 MiB that a thread's stack has.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use balancer_ebpf::{
    MAX_SLOTS, maps,
    record::{MemberRecord, MemberRecords},
};

/// The pinned map.
pub(super) struct Records(MapData);

/// The part of `union bpf_attr` that these commands read; the kernel takes the rest for zeros.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

// Of `enum bpf_cmd`.
const LOOK_UP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;

impl Records {
    /// Opens them under a group's directory.
    ///
    /// # Errors
    /// Where they are not there, or of another size.
    pub fn open(directory: &Path) -> Result<Self> {
        let map = super::maps::pinned(directory, maps::MEMBERS)?;
        let info = map.info().context("cannot read about the members' records")?;
        ensure!(
            (info.key_size() as usize, info.value_size() as usize)
                == (size_of::<u32>(), size_of::<MemberRecords>()),
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
        // SAFETY: the kernel writes as many octets as there are, and any will do for a record.
        unsafe { self.command(LOOK_UP, records.as_mut_ptr()) }
            .context("cannot read the members' records")?;
        Ok(records)
    }

    /// Writes all.
    ///
    /// # Errors
    /// Where they are not one a slot; and the kernel's.
    pub fn write(&mut self, records: &[MemberRecord]) -> Result<()> {
        ensure!(size_of_val(records) == size_of::<MemberRecords>(), "members' records are missing");
        // SAFETY: the kernel reads as many octets as there are, and writes none.
        unsafe { self.command(UPDATE, records.as_ptr().cast_mut()) }
            .context("cannot write the members' records")
    }

    /// # Safety
    /// At `records` there are [`MAX_SLOTS`], to be written where the command looks up.
    unsafe fn command(&self, command: libc::c_long, records: *mut MemberRecord) -> io::Result<()> {
        let key = 0_u32;
        let element = Element {
            map: u32::try_from(self.0.fd().as_fd().as_raw_fd()).map_err(io::Error::other)?,
            padding: 0,
            key: (&raw const key).expose_provenance() as u64,
            value: records.expose_provenance() as u64,
            flags: 0,
        };
        // SAFETY: the map's key has the size of `key` and its value that of all records: `open` has
        // made sure.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, command, &raw const element, size_of::<Element>())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
