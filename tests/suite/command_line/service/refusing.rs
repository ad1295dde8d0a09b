//! If something cannot be done in one group of a service, it is done in none.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::MapData;
use balancer_common::maps;
use harness::{
    Host,
    servers::Server,
    sockets::{tcp, udp},
};

use super::{names, set, sockets, states, status_of};

/// From now on no process can write to a pinned map (`BPF_MAP_FREEZE`).
fn freeze(host: &Host, group: &str, map: &str) {
    let map = MapData::from_pin(host.pins(group).join(map)).unwrap();
    let attributes = [map.fd().as_fd().as_raw_fd(), 0];
    // SAFETY: the attributes are read, and no longer than they are.
    let done = unsafe { libc::syscall(libc::SYS_bpf, 22, attributes.as_ptr(), 4) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_change_that_the_kernel_refuses_in_one_group_is_taken_back_in_the_others() {
    Host::with_python(|host| {
        let _ours = ["127.0.0.1:8000", "127.0.0.1:8443"].map(tcp);
        let theirs = ["127.0.0.1:8000", "127.0.0.1:8443"].map(|at| Server::start("tcp", at));
        host.succeed(&["attach", ":8000", ":8443", "--service", "web", "--once"]);
        freeze(host, "tcp-8443", maps::MEMBERS);
        let own = std::process::id().to_string();
        host.fail(1, &["drain", "--service", "web", &own]);
        for name in ["tcp-8000", "tcp-8443"] {
            assert_eq!(states(host, name), ["live", "live"], "{name}");
        }
        host.fail(1, &["weight", "--service", "web", &format!("{own}=7")]);
        assert_eq!(status_of(host, "tcp-8000")["members"][0]["weight"], 1);
        drop(theirs);
    });
}

#[test]
fn a_policy_that_one_group_cannot_have_is_given_to_none() {
    Host::with(|host| {
        let _sockets = sockets();
        host.succeed(&["attach", ":8000", "udp/:8000", "--service", "web", "--once"]);
        let message = host.fail(1, &["policy", "least-requests", "--service", "web"]);
        assert!(message.contains("udp-8000: ") && message.contains("least-requests"), "{message}");
        for name in names(host) {
            assert_eq!(status_of(host, &name)["policy"], "round-robin", "{name}");
        }
        host.succeed(&["detach"]);
    });
}

#[test]
fn a_worker_that_is_the_last_in_one_group_is_drained_in_none() {
    Host::with_python(|host| {
        let _ours = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        let _theirs = Server::start("tcp", "127.0.0.1:8000");
        host.succeed(&["attach", ":8000", ":8443", "--service", "web", "--once"]);
        let own = std::process::id().to_string();
        let message = host.fail(1, &["drain", "--service", "web", &own]);
        assert!(message.contains("tcp-8443: ") && message.contains("no other worker"), "{message}");
        assert_eq!(states(host, "tcp-8000"), ["live", "live"]);
        host.succeed(&["detach"]);
    });
}

#[test]
fn a_worker_of_none_of_its_groups_and_a_slot_are_refused() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), udp("127.0.0.1:8000")];
        host.succeed(&["attach", ":8000", "udp/:8000", "--service", "web", "--once"]);
        for verb in ["drain", "resume"] {
            let message = host.fail(1, &[verb, "--service", "web", "1"]);
            let own = std::process::id();
            assert!(message.contains("PID 1 is not a worker of the service web"), "{message}");
            assert!(message.contains(&own.to_string()), "{message}");
            let message = host.fail(1, &[verb, "slot:0"]);
            assert!(message.contains("slot:0 is of one group"), "{message}");
        }
        host.fail(1, &["weight", "--service", "web", "1=5"]);
        host.succeed(&["detach"]);
    });
}

#[test]
fn what_is_there_is_named_where_it_is_not_said_which_is_meant() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), udp("127.0.0.1:8000"), tcp("127.0.0.1:9000")];
        host.succeed(&["attach", ":8000", "udp/:8000", "--service", "web", "--once"]);
        host.succeed(&["attach", ":9000", "--once"]);
        let message = host.fail(1, &["status"]);
        for part in ["--group: tcp-8000, tcp-9000, udp-8000", "--service: web"] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        let message = host.fail(1, &["status", "--service", "dns"]);
        assert!(message.contains("the services are web"), "{message}");
        let message = host.fail(1, &["detach", ":8000"]);
        assert!(message.contains("udp-8000 (udp/127.0.0.1:8000)"), "{message}");
        assert!(message.ends_with("or all of a service with --service web\n"), "{message}");
        host.succeed(&["detach", "--service", "web"]);
        assert_eq!(names(host), set(&["tcp-9000"]));
        host.succeed(&["detach"]);
    });
}
