//! A program that has more rights than who starts it does not believe the environment.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output},
};

use harness::{Host, host::balancer};
use rustix::{
    fs::Uid,
    thread::{set_thread_groups, set_thread_res_uid},
};
use tempfile::TempDir;

/// A copy of the program with a mode.
fn copy(mode: u32) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("balancer");
    fs::copy(balancer(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
    (directory, program)
}

/// Runs a program as a user that may nothing.
fn as_nobody(mut command: Command) -> Output {
    let become_nobody = || {
        let nobody = Uid::from_raw(65534);
        set_thread_groups(&[])?;
        Ok(set_thread_res_uid(nobody, nobody, nobody)?)
    };
    // SAFETY: system calls only, nothing allocated, between fork and exec.
    unsafe { command.pre_exec(become_nobody) };
    command.output().unwrap()
}

#[test]
fn which_pins_are_used_is_not_said_by_the_environment_of_somebody_with_less_rights() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        for (mode, believes) in [(0o755, true), (0o4755, false)] {
            let (_directory, program) = copy(mode);
            let mut command = Command::new(program);
            command.env("BALANCER_BPFFS", host.bpffs()).arg("status");
            let output = as_nobody(command);
            let said = String::from_utf8_lossy(&output.stderr);
            // Nobody may not look into it, and root would have seen the group.
            let there = said.contains(host.bpffs().to_str().unwrap());
            assert_eq!(there, believes, "{output:?}");
            assert!(!output.status.success(), "{output:?}");
        }
        running.stop();
    });
}

#[test]
fn which_programs_are_loaded_is_not_said_by_the_environment_of_somebody_with_less_rights() {
    Host::with(|host| {
        let (_directory, program) = copy(0o4755);
        let run = |program: &PathBuf| {
            let mut command = Command::new(program);
            command.env("BALANCER_OBJECT", "/no/such/object");
            command.arg("--bpffs").arg(host.bpffs());
            command.args(["run", "--workers", "1", "--quiet", "--", "true"]);
            command
        };
        let believed = run(&balancer()).output().unwrap();
        assert!(String::from_utf8_lossy(&believed.stderr).contains("/no/such/object"));
        let output = as_nobody(run(&program));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("/no/such/object"), "{output:?}");
        // It has come as far as the command, which ends at once.
        assert!(said.contains("worker 0"), "{output:?}");
    });
}
