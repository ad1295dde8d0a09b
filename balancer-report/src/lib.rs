//! Says how much a worker has to do, for `balancer run --load reported`: the policies
//! `least-connections` and `two-choices` then choose the worker that reports the least by its weight.
//!
//! A report is a store into memory that the steering program reads; there is no system call.
//!
//! ```no_run
//! let load = balancer_report::Load::from_env()?;
//! load.add(1);
//! // What there is to do …
//! load.sub(1);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::{
    env, io, ptr,
    sync::atomic::{AtomicU64, Ordering},
};

/// The environment variable with the descriptor of the worker's own word.
pub const LOAD_FD: &str = "BALANCER_LOAD_FD";

/// This worker's load, in any unit that all workers of the group share. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Load(&'static AtomicU64);

impl Load {
    /// The word that balancer gave this process.
    ///
    /// # Errors
    /// Returns an error if the process was not started by `balancer run --load reported`, or the kernel
    /// refuses the mapping.
    pub fn from_env() -> io::Result<Self> {
        let fd = env::var(LOAD_FD).ok().and_then(|value| value.parse().ok());
        let fd: libc::c_int = fd.ok_or_else(|| {
            io::Error::other(format!("{LOAD_FD} is not set; start this with --load reported"))
        })?;
        let (length, rights) = (size_of::<AtomicU64>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at a place of the kernel's choice, which is never given back.
        let word = unsafe { libc::mmap(ptr::null_mut(), length, rights, libc::MAP_SHARED, fd, 0) };
        if word == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is a page, so aligned, stays, and is only accessed as an atomic.
        Ok(Self(unsafe { &*word.cast::<AtomicU64>() }))
    }

    /// Sets the load.
    pub fn set(self, load: u64) {
        self.0.store(load, Ordering::Relaxed);
    }

    /// There is so much more to do.
    pub fn add(self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// So much of it is done.
    pub fn sub(self, done: u64) {
        self.0.fetch_sub(done, Ordering::Relaxed);
    }

    /// The load that was last reported.
    pub fn get(self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_not_given_a_word_is_told_how_to_get_one() {
        let refusal = Load::from_env().unwrap_err().to_string();
        assert!(refusal.contains("--load reported"), "{refusal}");
    }
}
