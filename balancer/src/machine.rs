//! Where and when something was measured, and which CPUs there are.

use std::fmt;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use procfs::{CpuInfo, Current as _, LoadAverage};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::kernel;

/// What a reader must know of a machine to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name for itself.
    pub processor: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// When the measuring began, to the second.
    pub date: Timestamp,
    /// Of the last minute, before the measuring.
    pub load_average: f32,
}

impl Machine {
    /// The one we run on.
    ///
    /// # Errors
    /// Where /proc cannot be read.
    pub fn this() -> Result<Self> {
        let processor = CpuInfo::current().context("cannot read /proc/cpuinfo")?;
        let now = Timestamp::now().as_second();
        Ok(Self {
            processor: processor.model_name(0).unwrap_or("unknown processor").to_owned(),
            cpus: cpus()?.len(),
            kernel: kernel::release(),
            date: Timestamp::from_second(now).context("the clock is far off")?,
            load_average: LoadAverage::current().context("cannot read /proc/loadavg")?.one,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cpus, kernel, date, load_average } = self;
        let date = date.strftime("%Y-%m-%d %H:%M UTC");
        write!(f, "{processor}, {cpus} CPUs, Linux {kernel}, {date}, load average {load_average}")
    }
}

/// The CPUs that this process may use.
///
/// # Errors
/// Where the kernel does not say.
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
/// Where the kernel refuses.
pub fn pin_to(cpu: usize) -> Result<()> {
    sched_setaffinity(None, &set_of(cpu))
        .with_context(|| format!("cannot pin a thread to CPU {cpu}"))
}

/// Lets this thread, and those that it starts from now on, run before all others (`SCHED_FIFO`).
///
/// # Errors
/// Without CAP_SYS_NICE.
pub fn prefer_this_thread() -> Result<()> {
    let first = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, first)
        .map_err(|error| anyhow!("cannot let a thread run before all others: {error}"))
}

/// Lets this thread run only where no other wants to (`SCHED_IDLE`).
///
/// # Errors
/// Where the kernel refuses.
pub fn defer_this_thread() -> Result<()> {
    let last = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, last)
        .map_err(|error| anyhow!("cannot let a thread run after all others: {error}"))
}
