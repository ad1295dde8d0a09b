//! Which CPUs a thread or a process may run on.

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::error::{Context as _, Result};

/// The CPUs that this process may use.
///
/// # Errors
/// Returns an error if the kernel does not say.
pub fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("cannot ask for the CPUs")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect())
}

/// The only CPU that a process may use, by its first thread; `None` where there are several, or it is
/// gone.
pub fn only_cpu(pid: u32) -> Option<u32> {
    let allowed = sched_getaffinity(Some(Pid::from_raw(pid.try_into().ok()?)?)).ok()?;
    let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu))?;
    if allowed.count() == 1 { cpu.try_into().ok() } else { None }
}

/// A set of one CPU.
pub fn set_of(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// Keeps this thread on one CPU.
///
/// # Errors
/// Returns an error if the kernel refuses.
pub fn pin_to(cpu: usize) -> Result<()> {
    sched_setaffinity(None, &set_of(cpu))
        .with_context(|| format!("cannot pin a thread to CPU {cpu}"))
}
