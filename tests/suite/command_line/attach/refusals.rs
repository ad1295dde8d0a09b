//! What cannot be attached is refused with what is there and what to do, and nothing is left behind.

use std::net::{TcpListener, UdpSocket};

use harness::{
    Host, lacking,
    running::{send, wait_until_gone, watch},
    servers::Server,
    sockets::{Opening, tcp, udp},
    there,
};
use rustix::{process::Signal, thread::CapabilitySet};
use socket2::{Domain, Protocol, Socket, Type};

use super::ADDRESS;

#[test]
fn a_port_that_nobody_serves_is_refused_with_where_else_to_look() {
    Host::with(|host| {
        host.refuse(1, &["attach", ":8000"], &[":8000", "balancer groups", "--netns"]);
    });
}

#[test]
fn a_socket_that_shares_with_nobody_is_refused_with_what_its_server_must_set() {
    Host::with(|host| {
        let _tcp = TcpListener::bind(ADDRESS).unwrap();
        let _udp = UdpSocket::bind(ADDRESS).unwrap();
        let own = format!("tcp/{ADDRESS} by PID {}", std::process::id());
        host.refuse(1, &["attach", ":8000"], &[&own, "udp/", "set SO_REUSEPORT"]);
    });
}

#[test]
fn a_group_of_another_address_or_protocol_is_offered_by_its_name() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.2:8000"), udp(ADDRESS)];
        host.refuse(1, &["attach", ADDRESS], &["tcp/127.0.0.2:8000", "try --udp"]);
    });
}

#[test]
fn an_mptcp_listener_is_refused_with_how_to_turn_it_off() {
    Host::with(|host| {
        let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) else {
            return lacking("kernel with MPTCP");
        };
        socket.set_reuse_port(true).unwrap();
        let _mptcp = Opening(socket).at(ADDRESS);
        host.refuse(1, &["attach", ":8000"], &["MPTCP", "GODEBUG=multipathtcp=0"]);
    });
}

#[test]
fn a_group_that_is_steered_already_is_refused_with_how_to_give_it_back() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        let agent = host.attach(&[":8000"]);
        let by = format!("attached by balancer PID {}", agent.pid());
        let message = host.fail(1, &["attach", ":8000"]);
        for part in ["group tcp-8000", &by, "balancer detach --group tcp-8000"] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        agent.stop();
        host.succeed(&["attach", ":8000", "--once"]);
        for args in [&["attach", ":8000"][..], &["run", "--listen", ADDRESS]] {
            let message = host.fail(1, args);
            assert!(message.contains("attached with --once"), "{message}");
            assert!(message.contains("balancer detach --group tcp-8000"), "{message}");
            assert!(!message.contains("PID 0") && !message.contains("kill"), "{message}");
        }
        // A UDP server is in nobody's way on a TCP port.
        host.succeed(&["detach"]);
        let _udp = udp("127.0.0.1:8001");
        host.succeed(&["attach", ":8001", "--once"]);
        host.run(&["--listen", "127.0.0.1:8001", "--workers", "1"]).stop();
        host.succeed(&["detach"]);
    });
}

#[test]
fn workers_of_our_own_are_not_attached_to() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--listen", ADDRESS]);
        let message = host.fail(1, &["attach", ":8000"]);
        assert!(message.contains(&format!("kill {}", running.pid())), "{message}");
        running.stop();
    });
}

#[test]
fn a_port_that_is_served_is_refused_by_run_with_how_to_attach_instead() {
    Host::with(|host| {
        let _socket = tcp(ADDRESS);
        host.refuse(1, &["run", "--listen", ADDRESS], &["balancer attach 127.0.0.1:8000"]);
    });
}

#[test]
fn what_names_no_server_or_namespace_is_refused_by_its_value() {
    Host::with(|host| {
        let _socket = tcp(ADDRESS);
        host.refuse(2, &["attach", "8000"], &["`8000`", ":8080"]);
        host.refuse(2, &["attach", ":0"], &["`:0`"]);
        host.refuse(2, &["attach", ":8000", "--name", "a.b"], &["`a.b`"]);
        host.refuse(2, &["attach", ":8000", "--once", "--admit", "none"], &["--once"]);
        host.refuse(2, &["attach", ":8000", "--netns", "blue"], &["`blue`"]);
        host.refuse(1, &["attach", ":8000", "--netns", "4194304"], &["no process 4194304"]);
        let nowhere = "/run/netns/no-such";
        host.refuse(1, &["attach", ":8000", "--netns", nowhere], &[nowhere, "ip netns"]);
        host.refuse(1, &["detach", ":8000"], &["no group at :8000", "balancer groups"]);
    });
}

#[test]
fn without_privilege_the_capability_and_the_sudo_line_are_named() {
    Host::with(|host| {
        let _socket = tcp(ADDRESS);
        for (lacking, parts) in [
            (CapabilitySet::NET_ADMIN, ["CAP_NET_ADMIN", "sudo"]),
            // Whose socket it is cannot be seen, nor can it be borrowed.
            (CapabilitySet::SYS_PTRACE, ["SO_REUSEPORT", "root"]),
        ] {
            let output = host.balancer_without(lacking, &["attach", ":8000"]).output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert!(host.is_clean());
        }
    });
}

#[test]
fn servers_that_end_while_they_are_adopted_are_done_without() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        // Whenever it is that one ends, the others are steered.
        for round in 0..10 {
            let mut servers = Server::several(2, "tcp", ADDRESS);
            let victim = servers.pop().unwrap();
            let process = watch(victim.pid());
            let mut attach =
                host.balancer(&["attach", ":8000", "--once", "--quiet"]).spawn().unwrap();
            // Waits for nothing: it is what differs from round to round.
            std::thread::sleep(std::time::Duration::from_millis(round * 4));
            send(victim.pid(), Signal::KILL);
            wait_until_gone(&process, "a server");
            assert!(attach.wait().unwrap().success(), "round {round}");
            harness::servers::ask(ADDRESS, 4);
            host.succeed(&["detach"]);
            assert!(host.is_clean());
        }
    });
}
