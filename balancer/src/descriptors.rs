//! The limit of open files: an agent has some for each worker, and takes what it may have. Workers get back
//! what the user's own limit was.

use std::{os::unix::process::CommandExt as _, process::Command, sync::OnceLock};

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What an agent has open beside what is its workers': maps, the event loop, what it opens for a
/// moment, and the worker that comes after another in a reload.
const OWN: u64 = 48;

/// A worker's: two pipes that it prints to, and a handle on its process.
const WORKERS: u64 = 3;

/// The limit that this process was started with.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit as far as that goes, for so many workers, each of which takes some `more`.
///
/// # Errors
/// Returns an error if that is not enough for them.
pub fn raise(workers: usize, more: u64) -> Result<()> {
    let before = *BEFORE.get_or_init(|| getrlimit(Resource::Nofile));
    let each = WORKERS + more;
    let needed = OWN + each * u64::try_from(workers)?;
    if let Some(most) = before.maximum.filter(|&most| most < needed) {
        let fit = most.saturating_sub(OWN) / each;
        bail!(
            "{workers} workers take {needed} open files, and this process may have {most}; raise that \
             (`ulimit -Hn {needed}` as root, or LimitNOFILE= of systemd){}",
            if fit > 0 {
                format!(", or choose at most {fit} with --workers")
            } else {
                String::new()
            }
        );
    }
    // If the kernel refuses, the limit of before may do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before });
    Ok(())
}

/// Has a command run under the limit that this process was started with.
pub fn restore(command: &mut Command) {
    let Some(&before) = BEFORE.get() else { return };
    // SAFETY: a system call between fork and exec, and nothing allocated.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, before)?)) };
}
