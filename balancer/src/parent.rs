//! A process that is of no use without the one that started it, and ends with it, also if that is killed.

use std::io;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// From now on the kernel sends this signal when the parent has ended.
///
/// # Errors
/// Returns an error if the parent is not, or no longer, the one that is meant.
pub fn end_with(parent: Option<Pid>, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    // It may have ended right before.
    if getppid() != parent {
        return Err(io::Error::other("the process that started this one is gone"));
    }
    Ok(())
}
