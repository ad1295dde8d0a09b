//! A group that somebody else's program has: left alone, unless it is asked for.

use std::{fs::remove_dir_all, net::TcpStream};

use balancer::{group::Protocol, policy::Policy};
use harness::{Host, TestGroup, sockets::tcp};

use crate::{ADDRESS, selected};

#[test]
fn a_group_whose_sockets_are_in_anothers_array_is_taken_only_on_request() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        host.succeed(&["attach", ":8000", "--once"]);
        // Whose program it was is forgotten; it stays attached, and the array with it.
        remove_dir_all(host.pins("tcp-8000")).unwrap();
        let message = host.fail(1, &["attach", ":8000", "--once"]);
        for part in ["tcp/127.0.0.1:8000", "another program", "--replace", "cannot be put back"] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(host.is_clean());
        let output = host.output(&["attach", ":8000", "--once", "--replace"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && message.contains("cannot be put back"), "{message}");
        let _clients = [(); 10].map(|()| TcpStream::connect(ADDRESS).unwrap());
        assert_eq!(selected(&host.status()), [5, 5]);
        assert!(host.succeed(&["detach"]).contains("--replace` took off it cannot be put back"));
        assert!(host.is_clean());
    });
}

#[test]
fn replacing_nothing_replaces_nothing() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        let output = host.output(&["attach", ":8000", "--once", "--replace"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(!host.succeed(&["detach"]).contains("put back"));
    });
}

#[test]
fn an_array_that_its_owner_holds_is_not_taken_and_nothing_of_ours_is_left() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1, 1]);
        let address = group.address.to_string();
        // Its pins are out of sight, its maps open in this process.
        remove_dir_all(host.pins("test")).unwrap();
        let message = host.fail(1, &["attach", &address, "--replace"]);
        assert!(message.contains("still held") && message.contains("bpftool"), "{message}");
        assert!(host.is_clean());
        drop(group);
    });
}
