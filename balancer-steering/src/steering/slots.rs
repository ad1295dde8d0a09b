//! A slot for a socket: reserved before it listens, registered when it does.

use std::{collections::HashSet, os::fd::BorrowedFd};

use crate::error::{Context as _, Result};
use balancer_common::record::{MemberRecord, SlotState};
use socket2::SockRef;

use super::Steering;
use crate::weight::Weight;

impl Steering {
    /// Registers a listening socket in a slot of its own, not in the table yet.
    ///
    /// # Errors
    /// Returns an error if all slots are taken, or the kernel refuses the socket.
    pub fn seat(&mut self, socket: BorrowedFd<'_>, weight: Weight) -> Result<u32> {
        let slot = self.reserve(socket, weight)?;
        match self.register(slot, socket) {
            Ok(()) => Ok(slot),
            Err(error) => {
                // Nobody was there before, and nobody is.
                self.unplace_listener(socket);
                self.maps.end_tenancy(slot)?;
                self.edit(slot, |record| *record = MemberRecord::default())?;
                Err(error)
            }
        }
    }

    /// Reserves a slot for a socket that need not listen yet: from its first connection on, all are
    /// counted. The slot is one never used while there is one, so that counters of workers that have
    /// left stay readable.
    ///
    /// # Errors
    /// Returns an error if all slots are taken, or a map cannot be written.
    pub fn reserve(&mut self, socket: BorrowedFd<'_>, weight: Weight) -> Result<u32> {
        let mut records = self.maps.members.read()?;
        let slot = self.vacant_slot(&records)?;
        let cookie = SockRef::from(&socket).cookie().context("cannot read a socket's cookie")?;
        records[slot as usize] = MemberRecord {
            cookie,
            inode: rustix::fs::fstat(socket).context("cannot stat a socket")?.st_ino,
            weight: weight.get(),
            state: SlotState::Starting as u8,
            key: free_key(&records),
            ..MemberRecord::default()
        };
        self.maps.begin_tenancy(slot, cookie)?;
        self.begin_times(slot)?;
        self.renew_word(slot)?;
        self.place_listener(socket, slot, cookie)?;
        self.maps.members.write(&records)?;
        Ok(slot)
    }

    /// Lets programs choose the socket that a slot was reserved for, which listens by now.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses the socket.
    pub fn register(&mut self, slot: u32, socket: BorrowedFd<'_>) -> Result<()> {
        self.maps.set_socket(slot, socket)
    }

    fn vacant_slot(&self, records: &[MemberRecord]) -> Result<u32> {
        let find = |wanted: fn(&MemberRecord) -> bool| {
            (0..).zip(records).find(|(_, record)| wanted(record)).map(|(slot, _)| slot)
        };
        find(|record| record.cookie == 0)
            .or_else(|| find(|record| record.state == SlotState::Vacant as u8))
            .with_context(|| format!("all {} slots of {} are taken", records.len(), self.name))
    }
}

/// The lowest key that nobody present has: of whom it was before, a newcomer takes the place.
fn free_key(records: &[MemberRecord]) -> u32 {
    let present = |record: &&MemberRecord| record.state != SlotState::Vacant as u8;
    let taken: HashSet<u32> = records.iter().filter(present).map(|record| record.key).collect();
    (0..).find(|key| !taken.contains(key)).unwrap_or_default()
}
