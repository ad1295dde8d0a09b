//! Connections are counted in every layout of cgroups: version 2 mounted, mounted nowhere, or seen from a
//! cgroup namespace; and where it cannot be had that is said.

use std::{fs, net::TcpStream, process::Command};

use harness::{Host, Running, client::requests};
use rustix::{
    mount::{UnmountFlags, unmount},
    thread::CapabilitySet,
};

const RUN: [&str; 5] = ["run", "--workers", "2", "--listen", "127.0.0.1:0"];

/// Takes every mount of cgroup2 out of the test's own mount namespace.
fn unmount_cgroup2() {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    for mount in mounts.lines().filter(|line| line.contains(" - cgroup2 ")) {
        unmount(mount.split(' ').nth(4).unwrap(), UnmountFlags::DETACH).unwrap();
    }
    assert!(!fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains(" - cgroup2 "));
}

/// That connections are counted, and nothing is left behind.
fn counts(host: &Host, command: Command) {
    let running = Running::start(command);
    let _clients: Vec<TcpStream> =
        (0..6).map(|_| TcpStream::connect(running.address()).unwrap()).collect();
    let open = |slot: usize| host.status()["members"][slot]["open"].clone();
    assert_eq!((open(0), open(1)), (3.into(), 3.into()));
    running.stop();
    assert!(host.is_clean());
}

fn least(host: &Host) -> Command {
    host.balancer(&[&RUN[..], &["--policy", "least-connections"]].concat())
}

#[test]
fn without_any_mount_of_cgroup2_connections_are_counted_and_none_is_left() {
    Host::with(|host| {
        unmount_cgroup2();
        counts(host, least(host));
        assert!(!fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains("cgroup2"));
    });
}

#[test]
fn in_a_cgroup_namespace_connections_are_counted_with_and_without_a_mount_of_cgroup2() {
    Host::with(|host| {
        let inside = || {
            let plain = least(host);
            let mut command = Command::new("unshare");
            command.args(["--cgroup", "--"]).arg(plain.get_program()).args(plain.get_args());
            command.env("BALANCER_BPFFS", host.bpffs());
            command
        };
        counts(host, inside());
        unmount_cgroup2();
        counts(host, inside());
    });
}

#[test]
fn where_cgroup2_cannot_be_had_that_is_said_and_the_rest_works() {
    Host::with(|host| {
        unmount_cgroup2();
        let without = |policy| {
            let args = [&RUN[..], &["--policy", policy]].concat();
            host.balancer_without(CapabilitySet::SYS_ADMIN, &args)
        };
        let refused = without("least-connections").output().unwrap();
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), text.trim().lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains("no cgroup2 is mounted") && text.contains("round-robin"), "{text}");
        assert!(host.is_clean());
        let running = Running::start(without("round-robin"));
        requests(running.address(), 4);
        assert_eq!(host.status()["counted"], false);
        let said = running.stop().stderr;
        assert_eq!(said.matches("no cgroup2 is mounted").count(), 1, "{said}");
    });
}
