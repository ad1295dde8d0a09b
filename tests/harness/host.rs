//! A host of the test's own: network namespace, mount namespace, bpffs. Gone with its last thread
//! or process.

use std::{
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use balancer_lab::sandbox;
use balancer_steering::kernel::MINIMUM;
use rustix::{
    process::{Pid, Signal, geteuid, kill_process},
    thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{needs_kernel, running::Running, there};

/// A test's own host. Threads and processes that the test starts are in it too.
pub struct Host {
    bpffs: TempDir,
}

impl Host {
    /// Runs a test on a host of its own; hosts run side by side.
    pub fn with(test: impl FnOnce(&Host) + Send + 'static) {
        assert!(geteuid().is_root(), "this test needs root; `cargo xtask test` uses sudo");
        if !needs_kernel(MINIMUM.major, MINIMUM.minor) {
            return;
        }
        let name = thread::current().name().unwrap_or_default().to_owned();
        let thread = thread::Builder::new().name(name);
        let result = thread
            .spawn(|| {
                let host = Self::new();
                let result = catch_unwind(AssertUnwindSafe(|| test(&host)));
                kill_everybody_here();
                result
            })
            .expect("a thread")
            .join();
        if let Err(panic) = result.and_then(|result| result) {
            resume_unwind(panic);
        }
    }

    /// As [`Host::with`], a test that needs Python; without it the test is skipped.
    pub fn with_python(test: impl FnOnce(&Host) + Send + 'static) {
        if there("python3") {
            Self::with(test);
        }
    }

    fn new() -> Self {
        let bpffs = tempfile::tempdir().expect("a directory");
        sandbox::enter(bpffs.path()).expect("namespaces");
        Self { bpffs }
    }

    /// Where this host's bpffs is.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// Where a group is pinned.
    pub fn pins(&self, group: &str) -> PathBuf {
        self.bpffs().join("balancer").join(group)
    }

    /// Where what all groups of this host share is pinned.
    pub fn shared_pins(&self) -> PathBuf {
        self.bpffs().join(format!("balancer-shared-{}", balancer_common::LAYOUT_VERSION))
    }

    /// Whether nothing of balancer is pinned.
    pub fn is_clean(&self) -> bool {
        std::fs::read_dir(self.bpffs()).expect("bpffs").flatten().all(|entry| {
            // What the kernel itself puts there.
            entry.path().extension().is_some()
        })
    }

    /// The real command, on this host.
    pub fn balancer(&self, args: &[&str]) -> Command {
        let mut command = Command::new(balancer());
        command.env("BALANCER_BPFFS", self.bpffs()).args(args);
        command
    }

    /// The real command, without some of root's capabilities.
    pub fn balancer_without(&self, lacking: CapabilitySet, args: &[&str]) -> Command {
        let mut command = self.balancer(args);
        let drop = move || {
            let mut sets = capabilities(None)?;
            sets.effective -= lacking;
            sets.permitted -= lacking;
            sets.inheritable -= lacking;
            // Root gets what its bounding set allows back at exec.
            for capability in lacking.iter() {
                remove_capability_from_bounding_set(capability)?;
            }
            set_capabilities(None, sets)?;
            Ok(())
        };
        // SAFETY: system calls only, nothing allocated, between fork and exec.
        unsafe { command.pre_exec(drop) };
        command
    }

    /// Runs a short-lived command to its end.
    pub fn output(&self, args: &[&str]) -> Output {
        self.balancer(args).output().expect("balancer starts")
    }

    /// Runs a short-lived command that must succeed; its standard output.
    pub fn succeed(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "balancer {args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command that must fail with this exit code; its standard error.
    pub fn fail(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(code), "balancer {args:?}: {output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// Runs a command that must fail with this code, in one line with all these parts, and leave
    /// nothing behind.
    #[track_caller]
    pub fn refuse(&self, code: i32, args: &[&str], parts: &[&str]) {
        let message = self.fail(code, args);
        for part in parts {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        assert!(self.is_clean(), "{args:?} left something pinned");
    }

    /// `balancer status --json`.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.succeed(&["status", "--json"])).expect("JSON")
    }

    /// The PIDs of the members, by slot, without those in another state where one is asked for.
    pub fn workers(&self, state: Option<&str>) -> Vec<u32> {
        let status = self.status();
        let members = status["members"].as_array().expect("members").iter();
        let wanted = members.filter(|m| state.is_none_or(|state| m["state"] == state));
        let pids = wanted.map(|m| u32::try_from(m["pid"].as_u64().expect("a PID")));
        pids.map(|pid| pid.expect("a PID")).collect()
    }

    /// Starts a command that stays, and waits for nothing.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::spawn(self.balancer(args))
    }

    /// Starts `balancer run` and waits until it steers.
    pub fn run(&self, args: &[&str]) -> Running {
        Running::start(self.balancer(&[&["run"], args].concat()))
    }

    /// Starts `balancer attach` and waits until it steers.
    pub fn attach(&self, args: &[&str]) -> Running {
        Running::attach(self.balancer(&[&["attach"], args].concat()))
    }
}

/// The binary under test: `cargo xtask test` says which, and builds it.
pub fn balancer() -> PathBuf {
    std::env::var_os("BALANCER_BIN").map(PathBuf::from).unwrap_or_else(|| {
        panic!("BALANCER_BIN does not name the binary under test; run `cargo xtask test`")
    })
}

/// A test that failed half-way may leave workers whose supervisor it killed.
fn kill_everybody_here() {
    let here = netns_of("thread-self");
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.parse().ok().and_then(Pid::from_raw);
        // This process itself is elsewhere: only this thread of it is here.
        if let Some(pid) = pid.filter(|_| netns_of(&name) == here) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn netns_of(process: &str) -> Option<u64> {
    Some(std::fs::metadata(format!("/proc/{process}/ns/net")).ok()?.ino())
}
