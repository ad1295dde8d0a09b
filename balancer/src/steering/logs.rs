//! The programs' log lines, read from aya-log's ring buffer.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// The level at which programs log every choice.
pub const DEBUG: u8 = aya_log::Level::Debug as u8;

/// A reader of the ring buffer, for one process a group.
pub struct Logs(EbpfLogger<&'static dyn log::Log>);

impl Logs {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self(EbpfLogger::init(ebpf).context("cannot read the programs' log")?))
    }

    /// Hands what has come to the process's logger.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for Logs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Logs {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits for log lines and hands them to the process's logger, for ever.
///
/// # Errors
/// Where the ring buffer cannot be waited for.
pub async fn forward(logs: Logs) -> io::Result<()> {
    // SAFETY: `Logs` owns its descriptor and shows the same one for as long as it lives.
    let mut logs = unsafe { AsyncFd::register_with_interest(logs, Interest::READABLE) }?;
    loop {
        let mut guard = logs.readable_mut().await?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
