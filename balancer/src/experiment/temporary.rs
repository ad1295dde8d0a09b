//! A group for the time of an experiment: a `balancer attach` or `balancer run` in a process of its own, which
//! gives the servers back, or ends them, when this process does, however that ends.

use std::{
    env,
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use balancer_steering::{
    process::to_pid,
    steering::{Steering, Store},
};
use rustix::process::{Signal, kill_process};

/// How often is looked whether the group is there, or the process has ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// How long requests in flight may take at the end, until the second signal.
const PATIENCE: Duration = Duration::from_secs(15);

/// The process that steers meanwhile.
pub struct Temporary(Child);

impl Temporary {
    /// Starts `balancer` with these arguments, and waits until it steers so many members.
    ///
    /// # Errors
    /// Returns an error if it cannot be started, or ends. It has said why.
    pub fn start(
        bpffs: &Path,
        arguments: &[impl AsRef<OsStr>],
        members: usize,
    ) -> Result<(Self, Steering)> {
        let mut command = Command::new(env::current_exe().context("cannot find this program")?);
        command
            .args(["--log-level", "warn", "--end-with"])
            .arg(std::process::id().to_string())
            .arg("--bpffs")
            .arg(bpffs)
            .args(arguments);
        // Ctrl-C in a terminal is for this process, which then ends that one in order.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let mut temporary = Self(command.spawn().context("cannot start balancer once more")?);
        let store = Store::at(bpffs);
        loop {
            if let Some(status) = temporary.0.try_wait().context("cannot wait for balancer")? {
                bail!("what would have steered the server has ended ({status})");
            }
            if let Some(steering) = temporary.group(&store)?
                && chosen_from(&steering)? >= members
            {
                return Ok((temporary, steering));
            }
            thread::sleep(INTERVAL);
        }
    }

    /// The group whose agent it is.
    fn group(&self, store: &Store) -> Result<Option<Steering>> {
        for name in store.names()? {
            // Others come and go.
            let Ok(steering) = Steering::open(store, &name) else { continue };
            if steering.group().is_ok_and(|group| group.agent.pid == self.0.id()) {
                return Ok(Some(steering));
            }
        }
        Ok(None)
    }

    /// Gives the servers back, or ends them.
    ///
    /// # Errors
    /// Returns an error if that failed. It has said why.
    pub fn end(mut self) -> Result<()> {
        let status = self.stop()?;
        if !status.success() {
            bail!("what steered the server meanwhile has failed ({status})");
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<ExitStatus> {
        self.tell()?;
        let told = Instant::now();
        while told.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait().context("cannot wait for balancer")? {
                return Ok(status);
            }
            thread::sleep(INTERVAL);
        }
        self.tell()?;
        self.0.wait().context("cannot wait for balancer")
    }

    /// It has not been waited for, or there is nobody to tell.
    fn tell(&mut self) -> Result<()> {
        let is_there = self.0.try_wait().context("cannot wait for balancer")?.is_none();
        match to_pid(self.0.id()).filter(|_| is_there) {
            Some(pid) => kill_process(pid, Signal::TERM).context("cannot send a signal"),
            None => Ok(()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn chosen_from(steering: &Steering) -> Result<usize> {
    let members = steering.snapshot()?.members;
    Ok(members.iter().filter(|member| member.state.is_in_table()).count())
}
