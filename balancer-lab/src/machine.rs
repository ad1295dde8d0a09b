//! Where and when something was measured, and which threads run first and last.

use std::fmt;

use anyhow::{Context as _, Result, anyhow};
use balancer_steering::{affinity, kernel};
use jiff::Timestamp;
use procfs::{CpuInfo, Current as _, LoadAverage};
use serde::{Deserialize, Serialize};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

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
    /// Returns an error if /proc cannot be read.
    pub fn this() -> Result<Self> {
        let processor = CpuInfo::current().context("cannot read /proc/cpuinfo")?;
        let now = Timestamp::now().as_second();
        Ok(Self {
            processor: processor.model_name(0).unwrap_or("unknown processor").to_owned(),
            cpus: affinity::cpus()?.len(),
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
/// Returns an error if the kernel refuses.
pub fn defer_this_thread() -> Result<()> {
    let last = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, last)
        .map_err(|error| anyhow!("cannot let a thread run after all others: {error}"))
}
