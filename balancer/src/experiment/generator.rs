//! The user's load generator, run once a block by the shell.

use std::{
    fs::File,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// One that runs. It is killed with all that it has started if it is dropped before it has ended.
pub struct Generator {
    child: Child,
    /// What it prints: a file, so that nothing has to be read meanwhile.
    output: File,
    ended: bool,
}

impl Generator {
    /// Starts a command.
    pub fn start(command: &str) -> Result<Self> {
        let cannot = || format!("cannot run the load generator `{command}`");
        let output = tempfile::tempfile().with_context(cannot)?;
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).stdout(output.try_clone().with_context(cannot)?);
        // So that the shell does not outlive what ends us, nor takes its Ctrl-C.
        let child = shell.process_group(0).spawn().with_context(cannot)?;
        Ok(Self { child, output, ended: false })
    }

    /// What it printed, if it has ended.
    ///
    /// # Errors
    /// Returns an error if it failed.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.try_wait().context("cannot wait for the load generator")?;
        let Some(status) = status else { return Ok(None) };
        self.ended = true;
        if !status.success() {
            bail!("the load generator failed ({status}); run it by hand to see why");
        }
        let mut text = Vec::new();
        std::io::Seek::rewind(&mut self.output)?;
        self.output
            .read_to_end(&mut text)
            .context("cannot read what the load generator printed")?;
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
