//! Keeps CPUs from falling asleep while something is measured.
//!
//! A CPU with nothing to do sleeps, and to wake it takes tens of microseconds, or milliseconds in a
//! virtual machine, whose host gives the CPU to others meanwhile (`steal` in `/proc/stat`). Under a load
//! that leaves CPUs idle between requests, that is most of what a measurement would see.

use std::{
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use balancer_steering::affinity;

use crate::machine;

/// While it lives, each CPU that this process may use is kept busy, by a thread that gives way to
/// every other (`SCHED_IDLE`).
pub struct IdleInhibitor(Arc<AtomicBool>);

impl IdleInhibitor {
    /// Starts the threads.
    ///
    /// # Errors
    /// Returns an error if one cannot be had.
    pub fn keep() -> Result<Self> {
        let awake = Self(Arc::new(AtomicBool::new(true)));
        for cpu in affinity::cpus()? {
            let wanted = Arc::clone(&awake.0);
            let spin = move || {
                // A thread that gave way to nobody would do more harm than a CPU that sleeps.
                if machine::defer_this_thread().is_err() || affinity::pin_to(cpu).is_err() {
                    return;
                }
                while wanted.load(Ordering::Relaxed) {
                    spin_loop();
                }
            };
            thread::Builder::new()
                .name(format!("awake-{cpu}"))
                .spawn(spin)
                .context("cannot start a thread")?;
        }
        Ok(awake)
    }
}

impl Drop for IdleInhibitor {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
