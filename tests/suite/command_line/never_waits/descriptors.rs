//! Descriptors that run out.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use harness::{
    Host, Running,
    running::{send, wait_until},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};

use super::{children, live, with_errors};

/// `run` under limits of its own.
fn run(host: &Host, soft: u64, hard: Option<u64>, args: &[&str]) -> Command {
    let mut command = with_errors(host, &[&["run", "--name", "web"], args].concat());
    let limit = Rlimit { current: Some(soft), maximum: hard };
    let set = move || Ok(setrlimit(Resource::Nofile, limit)?);
    // SAFETY: a system call between fork and exec, and nothing allocated.
    unsafe { command.pre_exec(set) };
    command
}

fn limit(pid: u32) -> Rlimit {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = line.split_whitespace().map(|word| word.parse().ok());
    Rlimit { current: words.next().unwrap(), maximum: words.next().unwrap() }
}

fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).unwrap())
}

fn hard() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

#[test]
fn an_agent_takes_what_it_may_have_and_workers_have_what_the_user_had() {
    Host::with(|host| {
        for more in [&[][..], &["--", "sleep", "1000"]] {
            let args = [&["--workers", "40"], more].concat();
            let running = Running::start(run(host, 100, hard(), &args));
            assert_eq!(limit(running.pid()), Rlimit { current: hard(), maximum: hard() });
            assert_eq!(children(running.pid()).len(), 40);
            for worker in children(running.pid()) {
                let own = Rlimit { current: Some(100), maximum: hard() };
                assert_eq!(limit(worker), own);
            }
            assert!(running.stop().status.success());
        }
    });
}

#[test]
fn more_workers_than_descriptors_allow_are_refused_with_the_figure() {
    Host::with(|host| {
        let output = run(host, 64, Some(64), &["--workers", "16"]).output().unwrap();
        let message = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        for part in ["16 workers", "may have 64", "at most 5", "LimitNOFILE="] {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        assert!(host.is_clean());
    });
}

#[test]
fn as_many_as_descriptors_allow_are_run_and_replaced() {
    Host::with(|host| {
        for more in [&[][..], &["--", "sleep", "1000"]] {
            let args = [&["--workers", "1000"], more].concat();
            let refused = run(host, 100, Some(100), &args).output().unwrap();
            let message = String::from_utf8(refused.stdout).unwrap();
            let (_, most) = message.split_once("at most ").unwrap();
            let most = most.split_whitespace().next().unwrap();
            let args = [&["--workers", most], more].concat();
            let running = Running::start(run(host, 100, Some(100), &args));
            host.succeed(&["reload"]);
            assert_eq!(live(host).len().to_string(), most);
            let ended = running.stop();
            assert!(!ended.stdout.contains("Too many"), "{ended:?}");
        }
    });
}

#[test]
fn whatever_fails_for_want_of_a_descriptor_no_worker_is_lost_and_none_leaks() {
    Host::with(|host| {
        let mut running = Running::start(run(host, 100, hard(), &["--workers", "4"]));
        let agent = running.pid();
        let open = fs::read_dir(format!("/proc/{agent}/fd")).unwrap().count() as u64;
        let mut failures = 0;
        for soft in (open - 8..open + 12).step_by(2) {
            let few = Rlimit { current: Some(soft), maximum: hard() };
            let killed = *live(host).iter().min().unwrap();
            prlimit(to_pid(agent), Resource::Nofile, few).unwrap();
            send(killed, Signal::KILL);
            running.wait_for("starting it again");
            let line = loop {
                let line = running.wait_for("");
                if line.contains("Too many open files") || line.contains("is back as") {
                    break line;
                }
            };
            let enough = Rlimit { current: hard(), maximum: hard() };
            prlimit(to_pid(agent), Resource::Nofile, enough).unwrap();
            if !line.contains("is back as") {
                failures += 1;
                running.wait_for("is back as");
            }
            wait_until("all workers and no more", || {
                live(host) == children(agent).into_iter().collect() && live(host).len() == 4
            });
        }
        assert!(failures > 3, "only {failures} of them failed");
        assert!(running.stop().status.success());
        assert!(host.is_clean());
    });
}
