//! The kernel's own event that a socket has begun to listen on a port, whoever's it is.

use std::{
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::Path,
};

use crate::error::{Context as _, Result, error};
use aya::maps::{Map, MapData, RingBuf};
use balancer_common::maps;

use super::{
    Steering,
    host::Host,
    lock::{self, Wait},
    object,
};
use crate::group::GroupSpec;

/// While it lives, listeners on the group's port are told of.
pub struct Listens {
    ring: RingBuf<MapData>,
    host: Host,
    number: u32,
}

impl Listens {
    /// Begins to watch.
    ///
    /// # Errors
    /// Returns an error if no connections are counted, so that nobody tells, or too many watch already.
    pub fn start(steering: &Steering) -> Result<Self> {
        Self::watch(&steering.directory, &steering.host, &steering.group()?)
            .context("the kernel does not report new listeners")
    }

    fn watch(directory: &Path, host: &Host, group: &GroupSpec) -> Result<Self> {
        let mut ebpf = object::load_over(directory, group)?;
        let ring = ebpf
            .take_map(maps::LISTENS)
            .ok_or_else(|| error!("the eBPF object has no {}", maps::LISTENS))?;
        let _lock = lock::host(directory, Wait::Some)?;
        let Map::RingBuf(data) = &ring else { return Err(error!("{ring:?} is not a ring buffer")) };
        let number = host.watch(group.identity.address.port(), data.fd().as_fd())?;
        Ok(Self { ring: RingBuf::try_from(ring)?, host: host.clone(), number })
    }

    /// Takes what has come; whether anything has.
    pub fn take(&mut self) -> bool {
        let mut any = false;
        while self.ring.next().is_some() {
            any = true;
        }
        any
    }
}

impl AsRawFd for Listens {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Drop for Listens {
    fn drop(&mut self) {
        self.host.end_watch(self.number);
    }
}
