//! A proxy process, with all that it starts: in a PID namespace of its own, whose first process the
//! kernel kills with us, and everybody else in there with that one.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use procfs::process::{Process, all_processes};

/// How long one may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until dropped.
pub struct Proxy {
    /// Not the proxy, but who waits for it.
    guard: Child,
}

impl Proxy {
    /// Starts a command, and waits until it listens.
    ///
    /// # Errors
    /// Returns an error if it ends, or does not listen in time.
    pub fn start(command: &[&str], address: SocketAddr) -> Result<Self> {
        let line = command.join(" ");
        let guard = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--kill-child", "--"])
            .args(command)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start setpriv; it is in the package util-linux")?;
        let mut proxy = Self { guard };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = proxy.guard.try_wait().context("cannot watch a proxy")? {
                bail!("`{line}`, shown with the reason above, ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("`{line}` does not listen on {address} after {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

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

impl Drop for Proxy {
    fn drop(&mut self) {
        // What it waits for is killed with it.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
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
