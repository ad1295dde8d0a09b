//! Where steering by load cannot be had.

use balancer::kernel::{BARRIERS, release, wants_perfmon};
use harness::{Host, needs_kernel};
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

const LOOKING: [&[&str]; 4] = [
    &["--policy", "least-connections"],
    &["--policy", "two-choices"],
    &["--policy", "shortest-queue"],
    &["--policy", "hash", "--avoid-stalled", "50ms"],
];

#[test]
fn without_cap_perfmon_what_looks_at_load_is_refused_in_one_sentence_and_the_rest_works() {
    Host::with(|host| {
        let lacking = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
        let needed_by_all = wants_perfmon(&release());
        let alternative = if needed_by_all { "6.17" } else { "round-robin" };
        let steered: &[&[&str]] = &[&["--policy", "hash"], &["--policy", "round-robin"]];
        for policy in LOOKING.iter().chain(steered.iter().filter(|_| needed_by_all)) {
            let args = [&["run", "--workers", "1", "--listen", "127.0.0.1:0"], *policy].concat();
            let output = host.balancer_without(lacking, &args).output().unwrap();
            refused(output, &["CAP_PERFMON", alternative]);
        }
        assert!(host.is_clean());
        if !needs_kernel(BARRIERS.major, BARRIERS.minor) {
            return;
        }
        for rest in ["hash", "round-robin", "weighted", "random", "kernel"] {
            let args = ["run", "--workers", "1", "--listen", "127.0.0.1:0", "--policy", rest];
            let running = harness::Running::start(host.balancer_without(lacking, &args));
            harness::client::request(running.address()).unwrap();
            running.stop();
        }
        assert!(host.is_clean());
    });
}

#[test]
fn without_btf_what_looks_at_load_is_refused_in_one_sentence_and_the_rest_works() {
    Host::with(|host| {
        // The mount namespace is the test's own.
        mount("none", "/sys/kernel/btf", "tmpfs", MountFlags::empty(), None).unwrap();
        for policy in LOOKING {
            let args = [&["run", "--workers", "1", "--listen", "127.0.0.1:0"], policy].concat();
            refused(host.output(&args), &["BTF", "/sys/kernel/btf/vmlinux", "round-robin"]);
        }
        let running = host.run(&["--workers", "1"]);
        harness::client::request(running.address()).unwrap();
        refused(host.output(&["policy", "least-connections"]), &["BTF"]);
        running.stop();
    });
}

#[test]
fn a_policy_by_connections_is_refused_for_udp() {
    Host::with(|host| {
        let _socket = harness::sockets::udp("127.0.0.1:5353");
        let args = ["attach", "127.0.0.1:5353", "--udp", "--policy", "two-choices"];
        host.refuse(1, &args, &["UDP", "shortest-queue"]);
    });
}
