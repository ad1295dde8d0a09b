//! The programs' log lines, read from aya-log's ring buffer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::error::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;

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
