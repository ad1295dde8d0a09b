//! A process with all that it starts: in a PID namespace of its own, whose first process the kernel
//! kills with us, and everybody else in there with that one.

use std::{
    env,
    ffi::OsStr,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long one may take to start.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What stands before the program in its command.
const GUARD: [&str; 6] = ["--pdeathsig", "KILL", "unshare", "--pid", "--kill-child", "--"];

/// Runs until dropped.
pub struct ProcessTree {
    /// Not the program, but the process that waits for it.
    pub guard: Child,
}

/// A command for [`ProcessTree::start`], without arguments yet.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(GUARD).arg(program).stdin(Stdio::null());
    command
}

/// Whether a program of this name, or a file of this path, is installed.
pub fn is_installed(file: &str) -> bool {
    // An absolute path stays what it is.
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(file).exists())
}

impl ProcessTree {
    /// Starts a command, and waits until it listens.
    ///
    /// # Errors
    /// Returns an error if it ends, or does not listen in time.
    pub fn start(mut command: Command, address: SocketAddr) -> Result<Self> {
        let words = command.get_args().skip(GUARD.len()).map(OsStr::to_string_lossy);
        let line = words.collect::<Vec<_>>().join(" ");
        let guard =
            command.spawn().context("cannot start setpriv; it is in the package util-linux")?;
        // The command has what its process has: a listening socket, if it was handed one.
        drop(command);
        let mut tree = Self { guard };
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = tree.guard.try_wait().context("cannot watch a process")? {
                bail!("`{line}`, shown with the reason above, ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("`{line}` does not listen on {address} after {} s", TIMEOUT.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(tree)
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        // What it waits for is killed with it.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}
