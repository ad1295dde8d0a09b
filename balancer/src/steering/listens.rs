//! The kernel's own event that a listener has come or gone, on the whole machine.

use std::{
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf,
    maps::{MapData, RingBuf},
    programs::BtfTracePoint,
};
use balancer_ebpf::maps;

use super::{Steering, object};

const PROGRAM: &str = "bal_listen";
const TRACEPOINT: &str = "inet_sock_set_state";

/// While it lives, listeners are told of. Not pinned: it ends with this process.
pub struct Listens {
    ring: RingBuf<MapData>,
    _program: Ebpf,
}

impl Listens {
    /// Begins to watch. Linux 5.8 with BTF; needs CAP_PERFMON.
    ///
    /// # Errors
    /// Where the kernel has no BTF, or refuses.
    pub fn start(steering: &Steering) -> Result<Self> {
        Self::load(&steering.directory)
            .context("the kernel does not tell us of new listeners (it takes BTF and CAP_PERFMON)")
    }

    fn load(directory: &Path) -> Result<Self> {
        let btf = Btf::from_sys_fs()?;
        let mut ebpf = object::load_watcher(directory)?;
        let ring = ebpf.take_map(maps::LISTENS).ok_or_else(|| lacks(maps::LISTENS))?;
        let program: &mut BtfTracePoint =
            ebpf.program_mut(PROGRAM).ok_or_else(|| lacks(PROGRAM))?.try_into()?;
        program.load(TRACEPOINT, &btf).map_err(|error| object::explain(PROGRAM, error))?;
        program.attach()?;
        Ok(Self { ring: RingBuf::try_from(ring)?, _program: ebpf })
    }

    /// Takes what has come: the processes in whose name sockets began to listen, or ended.
    ///
    /// A socket that begins is told of just before it can be found.
    pub fn take(&mut self) -> Vec<u32> {
        let mut processes = Vec::new();
        while let Some(record) = self.ring.next() {
            processes.extend(<[u8; 4]>::try_from(&*record).ok().map(u32::from_ne_bytes));
        }
        processes
    }
}

impl AsRawFd for Listens {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn lacks(what: &str) -> anyhow::Error {
    anyhow!("the eBPF object has no {what}")
}
