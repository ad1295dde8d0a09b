//! Sockets that cannot be steered, among others that can: they are named, and left to the kernel's hash.

use harness::{
    Host, lacking,
    servers::{SOCKARRAY, SOCKHASH, SOCKMAP, Server, ask, ask_udp},
};
use rustix::process::Signal;
use socket2::{Domain, Protocol, Type};

use super::{ADDRESS, each};

const IPV6: &str = "[::1]:8000";

/// What is said of a server that is left out.
fn named(server: &Server) -> String {
    format!("PID {} (python3)", server.pid())
}

const LEFT_OUT: &str = "it gets only connections for which the program finds no member";

/// A server that cannot be steered is named when the others are attached, with why.
fn is_named(host: &Host, address: &str, kind: &str, odd: impl Fn() -> Server, why: &str) {
    let plain = if kind == "udp" { "udp" } else { "tcp" };
    let udp = if kind == "udp" { &["--udp"][..] } else { &[] };
    let alone = odd();
    let message = host.fail(1, &[&["attach", address, "--once"], udp].concat());
    for part in [why, &named(&alone), "cannot be steered"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(host.is_clean());

    let servers = Server::several(2, plain, address);
    let output = host.output(&[&["attach", address, "--once"], udp].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    for part in [why, &named(&alone), LEFT_OUT] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    let answers = if kind == "udp" { ask_udp(address, 20) } else { ask(address, 20) };
    assert_eq!(answers, each(&servers, 10));
    host.succeed(&["detach"]);

    // The one that was there is named once, as is the one that comes later.
    let mut running = host.attach(&[&[address], udp].concat());
    // It listens before it is in its map, and would be steered in between.
    running.signal(Signal::STOP);
    let late = odd();
    running.signal(Signal::CONT);
    let line = running.wait_for(&named(&late));
    assert!(line.contains(why) && line.contains(LEFT_OUT), "{line}");
    let _another = Server::start(plain, address);
    running.wait_for("is steered too, in slot 2");
    for _ in 0..2 {
        running.wait_for("round-robin ");
    }
    let ended = running.stop();
    assert_eq!(ended.stdout.matches(&named(&late)).count(), 1, "{ended:?}");
    let all = [ended.stdout.as_str(), &ended.stderr].concat();
    assert_eq!(all.matches(&named(&alone)).count(), 1, "{ended:?}");
}

#[test]
fn an_mptcp_listener_among_others_is_named_and_the_others_are_steered() {
    if socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).is_err() {
        return lacking("kernel with MPTCP");
    }
    for address in [ADDRESS, IPV6] {
        Host::with_python(move |host| {
            let odd = || Server::start("mptcp", address);
            is_named(host, address, "tcp", odd, "GODEBUG=multipathtcp=0");
        });
    }
}

#[test]
fn a_socket_in_a_sockmap_among_others_is_named_and_the_others_are_steered() {
    for (kind, address, map, size) in [
        ("tcp", ADDRESS, SOCKMAP, 8),
        ("tcp", IPV6, SOCKHASH, 8),
        ("tcp", ADDRESS, SOCKMAP, 4),
        ("udp", ADDRESS, SOCKMAP, 8),
    ] {
        Host::with_python(move |host| {
            // Those of other tests that do not tell what is in them may be named, too.
            let why = if size == 8 { "is in a sockmap" } else { "sockmap" };
            is_named(host, address, kind, || Server::in_map(kind, address, map, size), why);
        });
    }
}

#[test]
fn a_socket_in_an_array_that_no_program_uses_is_named_and_the_others_are_steered() {
    for (kind, address, size) in [("tcp", ADDRESS, 8), ("udp", IPV6, 8), ("tcp", IPV6, 4)] {
        Host::with_python(move |host| {
            let why = if size == 8 { "array that no program uses" } else { "array" };
            let odd = || Server::in_map(kind, address, SOCKARRAY, size);
            is_named(host, address, kind, odd, why);
        });
    }
}

#[test]
fn a_map_that_tells_what_is_in_it_is_named_by_its_number_and_name() {
    Host::with_python(|host| {
        let _server = Server::in_map("tcp", ADDRESS, SOCKMAP, 8);
        let message = host.fail(1, &["attach", ADDRESS, "--once"]);
        let ids: Vec<u32> = aya::maps::loaded_maps()
            .flatten()
            .filter(|map| map.name_as_str() == Some("theirs"))
            .map(|map| map.id())
            .collect();
        assert!(
            ids.iter().any(|id| message.contains(&format!("(map {id} `theirs`)"))),
            "{message}"
        );
    });
}

#[test]
fn a_server_that_leaves_its_sockmap_by_a_restart_is_steered() {
    Host::with_python(|host| {
        let first = Server::start("tcp", ADDRESS);
        let odd = Server::in_map("tcp", ADDRESS, SOCKMAP, 8);
        let mut running = host.attach(&[ADDRESS]);
        odd.end(Signal::TERM);
        let again = Server::start("tcp", ADDRESS);
        running.wait_for("is steered too, in slot 1");
        assert_eq!(ask(ADDRESS, 20), each(&[first, again], 10));
        running.stop();
    });
}
