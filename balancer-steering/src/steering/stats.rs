//! What the kernel itself measures of a program: how often it ran, and for how long.

use std::{os::fd::OwnedFd, time::Duration};

use crate::error::{Context as _, Result};
use aya::{
    programs::{ProgramInfo, loaded_programs},
    sys::{Stats, enable_stats},
};

use super::{Steering, object::Program};

/// Runs of a program since it was loaded, as far as they were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// How long they took together, the measuring itself included.
    pub time: Duration,
}

/// While it lives, the kernel measures all runs of all programs.
#[derive(Debug)]
pub struct Measuring(#[expect(dead_code, reason = "held for what closing it does")] OwnedFd);

/// Lets the kernel measure. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// Returns an error if the kernel refuses.
pub fn measure_runs() -> Result<Measuring> {
    enable_stats(Stats::RunTime)
        .map(Measuring)
        .context("the kernel's run times of programs cannot be switched on (needs CAP_SYS_ADMIN)")
}

impl Steering {
    /// Runs of the program in force; none where there is no program.
    ///
    /// # Errors
    /// Returns an error if a pin cannot be read.
    pub fn runs(&self) -> Result<Runs> {
        let pin = Program::pinned(&self.group()?, &self.directory)?;
        let Some(pin) = pin else { return Ok(Runs::default()) };
        let info = ProgramInfo::from_pin(&pin)
            .with_context(|| format!("cannot read the statistics of {}", pin.display()))?;
        Ok(Runs::from(info))
    }

    /// Runs of what counts connections, for all sockets of the machine; none where nothing does.
    ///
    /// # Errors
    /// Returns an error if the program cannot be found.
    pub fn tracker_runs(&self) -> Result<Runs> {
        let Some(id) = self.host.counter_program()? else { return Ok(Runs::default()) };
        let is_it = |info: &ProgramInfo| info.id() == id;
        let info = loaded_programs().filter_map(Result::ok).find(is_it);
        info.map(Runs::from).context("the program that counts connections is not loaded")
    }
}

impl From<ProgramInfo> for Runs {
    fn from(info: ProgramInfo) -> Self {
        Self { count: info.run_count(), time: info.run_time() }
    }
}
