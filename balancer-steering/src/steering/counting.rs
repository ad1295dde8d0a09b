//! Whose connections are counted: the places of listeners and of the connections that were there
//! before. What comes later inherits its place from its listener, see the program `bal_count`.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use crate::error::{Context as _, ErrorKind, Result};
use aya::maps::MapError;
use balancer_common::{
    load,
    record::{OPEN_BEFORE, Place, Tag},
};
use socket2::SockRef;

use super::{
    Member, Steering,
    lock::{self, Wait},
};

/// `linux/bpf.h`
const BPF_NOEXIST: u64 = 1;

impl Steering {
    /// Whether the group's connections are counted.
    ///
    /// # Errors
    /// Returns an error if the group's record cannot be read.
    pub fn is_counted(&self) -> Result<bool> {
        Ok(self.group()?.counted)
    }

    /// How many connections a slot has open, those that wait to be accepted included.
    pub fn open_connections(&self, slot: u32) -> u64 {
        load::open(self.maps.loads.count(slot)).into()
    }

    /// How many connections count for a slot where loads are compared: open, and on their way.
    pub fn counted_connections(&self, slot: u32) -> u64 {
        load::connections(self.maps.loads.count(slot))
    }

    /// From now on all connections that come by a listener are counted for its slot.
    pub(super) fn place_listener(
        &self,
        socket: BorrowedFd<'_>,
        slot: u32,
        cookie: u64,
    ) -> Result<()> {
        let group = self.group()?;
        let counting = group.flows.is_some() || self.host.is_counting();
        // Nor once the group was given back: another may have its number, or nobody counts any more.
        if !group.counted || !self.is_pinned() || !counting {
            return Ok(());
        }
        let tag = Tag::of(cookie, group.index, slot, 0);
        self.host
            .places()?
            .insert(&socket.as_raw_fd(), Place { tag, ..Place::default() }, 0)
            .context("cannot store a listener's slot")
    }

    /// Undoes [`Steering::place_listener`]: what comes by it from now on inherits nothing.
    pub(super) fn unplace_listener(&self, socket: BorrowedFd<'_>) {
        // It may have had none.
        let _ = self.host.places().map(|mut places| places.remove(&socket.as_raw_fd()));
    }

    /// Counts a connection that a worker has open for its slot, until it is closed; false where it
    /// counts already. `socket` is a duplicate, to be closed soon: a connection lasts as long as one of
    /// them.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn note_connection(&self, socket: &OwnedFd, member: &Member) -> Result<bool> {
        let slot = member.slot;
        let mut places = self.host.places()?;
        let tag = Tag::of(member.cookie, self.group()?.index, slot, OPEN_BEFORE);
        let place = Place { tag, ..Place::default() };
        let _lock = lock::host(&self.directory, Wait::Some)?;
        self.host.watch_closing()?;
        // Before it is noted, because from then on it may be counted off.
        self.host.add_before(1)?;
        self.maps.loads.add(slot, load::OPEN);
        let take_back = || -> Result<()> {
            self.maps.loads.add(slot, load::OPEN.wrapping_neg());
            self.host.add_before(1_u64.wrapping_neg())
        };
        match places.insert(&socket.as_raw_fd(), place, BPF_NOEXIST) {
            Ok(()) => {}
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                take_back()?;
                return Ok(false);
            }
            Err(error) => {
                take_back()?;
                return Err(error).context("cannot store a connection's slot");
            }
        }
        // One that its worker has closed since is closed for good by our own closing, which is told.
        Ok(SockRef::from(socket).peer_addr().is_ok())
    }

    /// Ends what only connections need that were there before counting began, once none is left; later,
    /// if another process has the lock of what all groups share.
    ///
    /// # Errors
    /// Returns an error if what the host's groups share cannot be read or changed.
    pub fn rest(&self) -> Result<()> {
        if !self.host.is_watching_closing() {
            return Ok(());
        }
        match lock::host(&self.directory, Wait::None) {
            Ok(_lock) => self.host.rest(),
            Err(error) if error.kind() == ErrorKind::Busy => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Notes connections that wait in queues and are not counted, by cookie: should they migrate, they
    /// are not counted either.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn note_waiting(&self, cookies: impl Iterator<Item = u64>) -> Result<()> {
        let mut moved = self.host.moved()?;
        for cookie in cookies {
            moved.insert(cookie, Tag::default(), 0).context("cannot store a waiting connection")?;
        }
        Ok(())
    }
}
