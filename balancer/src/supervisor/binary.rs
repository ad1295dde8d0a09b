//! What the built-in worker is: the program that this process runs, until a reload takes what lies at
//! its place by then.

use std::{
    env, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{Mode, OFlags};

/// A program that is open, so that a worker which dies comes back as what it was, whatever lies at
/// its place meanwhile.
#[derive(Debug)]
pub struct Binary {
    place: PathBuf,
    /// None for what this process runs.
    taken: Option<OwnedFd>,
}

impl Binary {
    /// What this process runs.
    ///
    /// # Errors
    /// Returns an error if /proc cannot be read.
    pub fn own() -> io::Result<Self> {
        Ok(Self { place: env::current_exe()?, taken: None })
    }

    /// What lies at its place now.
    ///
    /// # Errors
    /// Returns an error if nothing does.
    pub fn anew(&self) -> io::Result<Self> {
        let taken = rustix::fs::open(&self.place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { place: self.place.clone(), taken: Some(taken) })
    }

    /// Where it lies.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// To run it.
    pub fn command(&self) -> Command {
        Command::new(match &self.taken {
            None => "/proc/self/exe".to_owned(),
            // The child's own, which has it until it runs.
            Some(taken) => format!("/proc/self/fd/{}", taken.as_raw_fd()),
        })
    }
}
