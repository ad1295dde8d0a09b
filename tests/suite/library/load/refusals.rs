//! Where steering by load cannot be had.

use balancer_steering::kernel::{BARRIERS, release, wants_perfmon};
use harness::{Host, Running, needs_kernel};
use rustix::{
    mount::{MountFlags, mount},
    thread::CapabilitySet,
};

fn refused(output: std::process::Output, parts: &[&str]) {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// What cannot be had where the kernel's sockets cannot be looked into.
const LOOKING: [&[&str]; 2] =
    [&["--policy", "shortest-queue"], &["--policy", "hash", "--avoid-stalled", "50ms"]];

const OTHERS: [&str; 9] = [
    "hash",
    "round-robin",
    "weighted",
    "random",
    "sticky",
    "cpu",
    "least-connections",
    "two-choices",
    "kernel",
];

const RUN: [&str; 5] = ["run", "--workers", "1", "--listen", "127.0.0.1:0"];

/// That every other policy works, and it is said once what does not.
fn the_rest_works(host: &Host, command: impl Fn(&[&str]) -> std::process::Command) {
    for policy in OTHERS {
        let running = Running::start(command(&[&RUN[..], &["--policy", policy]].concat()));
        harness::client::request(running.address()).unwrap();
        assert_eq!(host.status()["members"][0]["established"], 1, "{policy}");
        let said = running.stop().stderr;
        let times = said.matches("neither full queues nor stalled workers are left out").count();
        assert_eq!(times, usize::from(policy != "kernel"), "{policy}: {said}");
    }
    assert!(host.is_clean());
}

#[test]
fn without_cap_perfmon_what_looks_into_sockets_is_refused_in_one_sentence_and_the_rest_works() {
    Host::with(|host| {
        let lacking = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
        let needed_by_all = wants_perfmon(&release());
        let alternative = if needed_by_all { "6.17" } else { "round-robin" };
        let steered: &[&[&str]] = &[&["--policy", "hash"], &["--policy", "least-connections"]];
        for policy in LOOKING.iter().chain(steered.iter().filter(|_| needed_by_all)) {
            let args = [&RUN[..], *policy].concat();
            let output = host.balancer_without(lacking, &args).output().unwrap();
            refused(output, &["CAP_PERFMON", alternative]);
        }
        assert!(host.is_clean());
        if needs_kernel(BARRIERS.major, BARRIERS.minor) {
            the_rest_works(host, |args| host.balancer_without(lacking, args));
        }
    });
}

#[test]
fn without_btf_what_looks_into_sockets_is_refused_in_one_sentence_and_the_rest_works() {
    Host::with(|host| {
        // The mount namespace is the test's own.
        mount("none", "/sys/kernel/btf", "tmpfs", MountFlags::empty(), None).unwrap();
        for policy in LOOKING {
            let args = [&RUN[..], policy].concat();
            refused(host.output(&args), &["BTF", "/sys/kernel/btf/vmlinux", "round-robin"]);
        }
        the_rest_works(host, |args| host.balancer(args));
        let running = host.run(&["--workers", "1"]);
        refused(host.output(&["policy", "shortest-queue"]), &["BTF"]);
        running.stop();
    });
}

#[test]
fn a_policy_by_connections_is_refused_for_udp() {
    Host::with(|host| {
        let _socket = harness::sockets::udp("127.0.0.1:5353");
        let args =
            ["attach", "127.0.0.1:5353", "--udp", "--flow", "none", "--policy", "two-choices"];
        host.refuse(1, &args, &["steered by flows", "shortest-queue"]);
    });
}
