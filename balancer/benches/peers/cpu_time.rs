//! The CPU time that a process has used with all that it started.

use std::{fs, path::PathBuf, time::Duration};

use procfs::process::{Process, all_processes};

use crate::process_tree::ProcessTree;

impl ProcessTree {
    /// The CPU time that its processes have used, in all their threads.
    pub fn cpu_time(&self) -> Duration {
        let inside = namespace(self.guard.id(), "pid_for_children");
        let is_inside = |process: &Process| {
            let pid = u32::try_from(process.pid).ok();
            inside.is_some() && pid.and_then(|pid| namespace(pid, "pid")) == inside
        };
        let processes = all_processes().into_iter().flatten().flatten().filter(is_inside);
        processes.map(|process| threads_time(&process)).sum()
    }
}

fn namespace(pid: u32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

fn threads_time(process: &Process) -> Duration {
    let times = process.tasks().into_iter().flatten().flatten();
    let times = times.filter_map(|task| Some(task.schedstat().ok()?.sum_exec_runtime));
    Duration::from_nanos(times.sum())
}
