//! The tracker on a group's pins: there while a policy goes by connections, and gone after.
//!
//! What it keeps with the sockets is gone with its map, so a group that has none counts from nothing
//! when it is tracked again: listeners get their places, and connections that are there already are
//! told by [`Steering::note_connection`].

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf,
    maps::{Map, MapData, MapError, SkStorage},
    programs::{
        BtfTracePoint,
        links::{FdLink, PinnedLink},
    },
};
use balancer_ebpf::{load, maps, record::Place};
use socket2::SockRef;

use super::{Steering, maps::Maps, object};

const PROGRAM: &str = "bal_track";
const TRACEPOINT: &str = "inet_sock_set_state";
/// Pinned beside the maps: what keeps the program attached.
const LINK: &str = "tracker";

/// `linux/bpf.h`
const BPF_NOEXIST: u64 = 1;

type Places = SkStorage<MapData, Place>;

fn places(directory: &Path) -> Result<Option<Places>> {
    let path = directory.join(maps::SLOT_OF);
    if !path.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(&path)
        .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
    let places = SkStorage::try_from(Map::SkStorage(map));
    places.map(Some).with_context(|| format!("{} is not as balancer makes it", path.display()))
}

/// Whether a group's connections are counted.
pub(super) fn is_there(directory: &Path) -> bool {
    directory.join(LINK).exists()
}

/// Lets the kernel tell of every change of a socket's state, from now on. Linux 5.8 with BTF; needs
/// CAP_PERFMON.
///
/// # Errors
/// Where it refuses.
pub(super) fn start(directory: &Path, maps: &Maps) -> Result<()> {
    if is_there(directory) {
        return Ok(());
    }
    stop(directory)?;
    maps.forget_connections();
    let started = load(directory).context("cannot count connections");
    if started.is_err() {
        stop(directory)?;
    }
    started
}

fn load(directory: &Path) -> Result<()> {
    let btf = Btf::from_sys_fs()?;
    let mut ebpf = object::load_tracker(directory)?;
    let program: &mut BtfTracePoint = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| anyhow!("the eBPF object has no {PROGRAM}"))?
        .try_into()?;
    program.load(TRACEPOINT, &btf).map_err(|error| object::explain(PROGRAM, error))?;
    let link = program.attach()?;
    let link: FdLink = program.take_link(link)?.into();
    link.pin(directory.join(LINK))?;
    Ok(())
}

/// Ends the counting.
///
/// # Errors
/// Where a pin cannot be removed.
pub(super) fn stop(directory: &Path) -> Result<()> {
    for name in [LINK, maps::SLOT_OF] {
        let path: PathBuf = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Steering {
    /// Whether the group's connections are counted.
    pub fn is_tracked(&self) -> bool {
        is_there(&self.directory)
    }

    /// The kernel's number of the program that counts; `None` where nothing does.
    pub(super) fn tracker_program(&self) -> Result<Option<u32>> {
        if !self.is_tracked() {
            return Ok(None);
        }
        let pin = self.directory.join(LINK);
        let program = || anyhow::Ok(FdLink::from(PinnedLink::from_pin(&pin)?).info()?.program_id());
        program().map(Some).with_context(|| format!("cannot read the link {}", pin.display()))
    }

    /// Tells the tracker whose listener a socket is: all connections that come by it are its slot's.
    /// Nothing where there is no tracker.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) fn place_listener(&self, socket: BorrowedFd<'_>, slot: u32) -> Result<()> {
        let Some(mut places) = places(&self.directory)? else { return Ok(()) };
        places
            .insert(&socket.as_raw_fd(), Place { slot, counted: 0 }, 0)
            .context("cannot note a listener's slot with it")
    }

    /// As [`Steering::place_listener`], of every member whose socket can be had.
    ///
    /// # Errors
    /// Where nobody may be asked for a socket.
    pub(super) fn place_listeners(&self) -> Result<()> {
        for member in self.members()? {
            let slot = member.slot;
            if let Some(socket) = self.borrow_socket_among(&[member])? {
                self.place_listener(socket.as_fd(), slot)?;
            }
        }
        Ok(())
    }

    /// Changes the number of a slot's open connections by so many, where it is known to be wrong.
    pub fn correct_open_connections(&self, slot: u32, by: i64) {
        // Into the lower half only: what is taken away was counted there.
        self.maps.add_connections(slot, load::OPEN.wrapping_mul(by.cast_unsigned()));
    }

    /// Counts a connection that a worker has open for its slot, until the worker closes it; false
    /// where it counts already. `socket` is a duplicate, to be closed soon: a connection lasts as long
    /// as one of them.
    ///
    /// # Errors
    /// Where there is no tracker, or the kernel refuses.
    pub fn note_connection(&self, socket: &OwnedFd, slot: u32) -> Result<bool> {
        let mut places = places(&self.directory)?.context("connections are not counted")?;
        let ours = Place { slot, counted: 1 };
        // Before it is noted, because from then on the tracker may count it off.
        self.maps.add_connections(slot, load::OPEN);
        match places.insert(&socket.as_raw_fd(), ours, BPF_NOEXIST) {
            Ok(()) => {}
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
            {
                self.maps.add_connections(slot, load::OPEN.wrapping_neg());
                return Ok(false);
            }
            Err(error) => {
                self.maps.add_connections(slot, load::OPEN.wrapping_neg());
                return Err(error).context("cannot note a connection's slot with it");
            }
        }
        // Of one that was reset just before, nobody is told any more.
        if SockRef::from(socket).peer_addr().is_err()
            && places.get(&socket.as_raw_fd(), 0).is_ok_and(|place| place.counted == 1)
        {
            self.maps.add_connections(slot, load::OPEN.wrapping_neg());
            let _ = places.remove(&socket.as_raw_fd());
        }
        Ok(true)
    }
}
