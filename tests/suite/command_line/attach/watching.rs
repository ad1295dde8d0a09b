//! Servers that come and go while balancer watches.

use std::collections::BTreeMap;

use aya::maps::{Array, Map, MapData};
use balancer_common::{maps::WATCHES, record::Watch};
use harness::{
    Host,
    running::{send, wait_until},
    servers::{Server, ask, ask_udp},
    sockets::{Opening, tcp, udp},
    there,
};
use rustix::process::Signal;

use super::{ADDRESS, each, selected, workers};

#[test]
fn a_server_that_starts_later_gets_its_share_and_one_that_dies_leaves_the_table() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let mut servers = Server::several(3, "tcp", ADDRESS);
        let mut running = host.attach(&[":8000"]);
        servers.push(Server::start("tcp", ADDRESS));
        running.wait_for("is steered too, in slot 3");
        assert_eq!(workers(host)[3], u64::from(servers[3].pid()));
        assert_eq!(ask(ADDRESS, 40), each(&servers, 10));
        let victim = servers.remove(1);
        let line = format!("PID {} is gone from slot", victim.pid());
        victim.kill();
        running.wait_for(&line);
        assert_eq!(workers(host).len(), 3);
        assert_eq!(ask(ADDRESS, 30), each(&servers, 10));
        assert_eq!(host.status()["fallback"], 0);
        let ended = running.stop();
        // No look was one of a poll: the kernel's event is what there is.
        assert!(!ended.stderr.contains("looked for every"), "{ended:?}");
    });
}

#[test]
fn the_kernel_tells_an_agent_and_nobody_else() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        host.succeed(&["attach", ":8000", "--once", "--name", "once"]);
        let pins = std::fs::read_dir(host.pins("once")).unwrap().flatten();
        assert!(pins.into_iter().all(|pin| pin.file_name() != "LISTENS"));
        host.succeed(&["detach"]);
        let running = host.attach(&[":8000"]);
        assert_eq!(watchers(host), [running.pid()]);
        running.stop();
        // UDP sockets never listen.
        let _socket = udp("127.0.0.1:8001");
        let running = host.attach(&[":8001"]);
        assert_eq!(watchers(host), [0; 0]);
        running.stop();
    });
}

/// The agents that the kernel tells of new listeners.
fn watchers(host: &Host) -> Vec<u32> {
    let map = MapData::from_pin(host.shared_pins().join(WATCHES)).unwrap();
    let watches: Array<_, Watch> = Map::Array(map).try_into().unwrap();
    watches.iter().map(|watch| watch.unwrap().pid).filter(|pid| *pid != 0).collect()
}

#[test]
fn without_the_kernels_event_it_polls_and_says_so() {
    Host::with(|host| {
        let mut sockets = vec![tcp(ADDRESS), tcp(ADDRESS)];
        let mut running = host.attach(&[":8000", "--no-count"]);
        sockets.push(tcp(ADDRESS));
        running.wait_for("is steered too, in slot 2");
        let ended = running.stop();
        for part in ["connections are not counted", "looked for every 50 ms"] {
            assert!(ended.stderr.contains(part), "{ended:?}");
        }
    });
}

#[test]
fn udp_servers_come_and_go_too() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let mut servers = Server::several(2, "udp", ADDRESS);
        let mut running = host.attach(&[":8000", "--udp"]);
        servers.push(Server::start("udp", ADDRESS));
        running.wait_for("is steered too, in slot 2");
        assert_eq!(ask_udp(ADDRESS, 30), each(&servers, 10));
        servers.remove(0).kill();
        running.wait_for("is gone from slot");
        assert_eq!(ask_udp(ADDRESS, 30), each(&servers, 15));
        running.stop();
    });
}

#[test]
fn a_udp_socket_that_is_connected_leaves_the_table() {
    Host::with(|host| {
        let (stays, leaves) = (udp(ADDRESS), udp(ADDRESS));
        let mut running = host.attach(&[":8000"]);
        let elsewhere: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
        leaves.connect(&elsewhere.into()).unwrap();
        running.wait_for("is gone from slot");
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..4 {
            client.send_to(b"?", ADDRESS).unwrap();
        }
        let status = host.status();
        assert_eq!((selected(&status), &status["fallback"]), (vec![4], &0.into()));
        drop(stays);
        running.stop();
    });
}

#[test]
fn a_group_that_vanishes_and_comes_back_is_steered_again() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(2, "tcp", ADDRESS);
        let mut running = host.attach(&[":8000"]);
        servers.into_iter().for_each(Server::kill);
        running.wait_for("nobody serves tcp/127.0.0.1:8000 any more");
        let servers = Server::several(3, "tcp", ADDRESS);
        for _ in 0..3 {
            running.wait_for("is steered too");
        }
        assert_eq!(ask(ADDRESS, 60), each(&servers, 20));
        assert_eq!(selected(&host.status()), [20, 20, 20]);
        running.stop();
        assert!(host.is_clean());
    });
}

#[test]
fn a_listener_that_was_shut_down_and_listens_again_is_seated_anew() {
    Host::with(|host| {
        let (_stays, pauses) = (tcp(ADDRESS), tcp(ADDRESS));
        let mut running = host.attach(&[":8000"]);
        pauses.shutdown(std::net::Shutdown::Read).unwrap();
        running.wait_for("is gone from slot");
        pauses.listen(16).unwrap();
        running.wait_for("is steered too, in slot 2");
        let _clients = [(); 10].map(|()| std::net::TcpStream::connect(ADDRESS).unwrap());
        let status = host.status();
        assert_eq!(selected(&status), [5, 5], "{status}");
        running.stop();
    });
}

#[test]
fn a_newcomer_of_another_group_on_that_port_is_left_alone() {
    Host::with(|host| {
        let everywhere = "0.0.0.0:8000";
        let _first = [tcp(everywhere), udp(everywhere)];
        let mut running = host.attach(&[everywhere]);
        let on_lo = Opening::tcp(everywhere).with(|s| s.bind_device(Some(b"lo")).unwrap());
        let _elsewhere = [tcp(ADDRESS), tcp("[::1]:8000"), on_lo.at(everywhere)];
        let _here = tcp(everywhere);
        running.wait_for("is steered too, in slot 1");
        assert_eq!(workers(host).len(), 2);
        let ended = running.stop();
        assert_eq!(ended.stdout.matches("too").count(), 1, "{ended:?}");
        assert!(!ended.stdout.contains("not steered"), "{ended:?}");
    });
}

#[test]
fn a_socket_that_leaves_its_group_for_a_device_and_returns_is_seated_anew() {
    Host::with(|host| {
        let moves = tcp(ADDRESS);
        let mut running = host.attach(&[ADDRESS]);
        moves.bind_device(Some(b"lo")).unwrap();
        // Whatever listens makes it look.
        let _other = tcp("127.0.0.1:9000");
        running.wait_for("is gone from slot 0");
        moves.bind_device(None).unwrap();
        let _another = tcp("127.0.0.1:9001");
        running.wait_for("is steered too, in slot 1");
        running.stop();
    });
}

#[test]
fn a_newcomer_is_held_back_by_the_name_of_its_command() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let mut servers: Vec<_> = (0..2).map(|_| Server::named("tcp", ADDRESS, "web")).collect();
        let mut running = host.attach(&[":8000", "--admit", "same-command"]);
        let stranger = Server::named("tcp", ADDRESS, "stranger");
        let line = running.wait_for("is held back");
        assert!(line.contains(&format!("PID {} (stranger)", stranger.pid())), "{line}");
        servers.push(Server::named("tcp", ADDRESS, "web"));
        running.wait_for("is steered too");
        assert_eq!(ask(ADDRESS, 30), each(&servers, 10));
        let ended = running.stop();
        assert_eq!(ended.stdout.matches("is held back").count(), 1, "{ended:?}");
    });
}

#[test]
fn nobody_is_let_in_where_nobody_shall_be() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(2, "tcp", ADDRESS);
        let mut running = host.attach(&[":8000", "--admit", "none"]);
        let late = Server::start("tcp", ADDRESS);
        running.wait_for("is held back");
        let answers: BTreeMap<u32, usize> = ask(ADDRESS, 20);
        assert_eq!(answers, each(&servers, 10), "{}", late.pid());
        running.stop();
    });
}

#[test]
fn an_agent_whose_group_another_command_gives_back_ends_in_order() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        let running = host.attach(&[":8000"]);
        let said = host.succeed(&["detach", "127.0.0.1:8000"]);
        assert!(said.contains(&format!("balancer PID {}", running.pid())), "{said}");
        let ended = running.ended();
        assert!(ended.status.success(), "{ended:?}");
        assert!(ended.stdout.contains("given back to the kernel's hash by another"), "{ended:?}");
        assert!(host.is_clean());
    });
}

#[test]
fn every_signal_that_asks_to_end_gives_the_group_back() {
    Host::with(|host| {
        let _sockets = [tcp(ADDRESS), tcp(ADDRESS)];
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let running = host.attach(&[":8000", "--name", "web"]);
            running.signal(signal);
            let ended = running.ended();
            assert!(ended.status.success() && ended.stdout.contains("web  tcp/"), "{ended:?}");
            assert!(host.is_clean());
        }
    });
}

/// Runs what a server does with its listener, `s`.
fn python(script: &str) -> std::process::Child {
    let listens = "\
import os, select, signal, socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(('127.0.0.1', 8000))
s.listen()
";
    let script = format!("{listens}{script}");
    std::process::Command::new("python3").args(["-c", &script]).spawn().unwrap()
}

#[test]
fn a_socket_that_its_opener_leaves_to_a_child_is_shown_with_the_child() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let _first = tcp(ADDRESS);
        let mut running = host.attach(&[":8000"]);
        // Opens, lets a child poll, and waits, as the master of nginx does.
        let script = "\
if os.fork() == 0:
    epoll = select.epoll()
    epoll.register(s, select.EPOLLIN)
    epoll.poll()
os.wait()
";
        let mut master = python(script);
        running.wait_for("is steered too, in slot 1");
        wait_until("the child to be shown", || {
            let worker = workers(host)[1];
            let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
            stat.contains(&format!(") S {} ", master.id()))
        });
        running.stop();
        master.kill().unwrap();
        master.wait().unwrap();
    });
}

#[test]
fn a_socket_that_a_worker_leaves_to_another_and_lives_on_is_shown_with_that_one() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let _first = tcp(ADDRESS);
        let mut running = host.attach(&[":8000"]);
        // As a worker of nginx does that is told to shut down, and still has connections.
        let script = "\
left, leave = os.pipe()
if os.fork() == 0:
    signal.alarm(600)
    os.read(left, 1)
    epoll = select.epoll()
    epoll.register(s, select.EPOLLIN)
    epoll.poll()
epoll = select.epoll()
epoll.register(s, select.EPOLLIN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.sigwait([signal.SIGTERM])
epoll.close()
s.close()
os.write(leave, b'.')
signal.sigwait([signal.SIGTERM])
";
        let mut old = python(script);
        running.wait_for("is steered too, in slot 1");
        let own = u64::from(old.id());
        wait_until("the first to be shown", || workers(host)[1] == own);
        // Newcomers are looked at once more after half a second: now they have settled.
        for _second in 0..3 {
            running.wait_for("round-robin connections=");
        }
        assert_eq!(workers(host)[1], own);
        send(old.id(), Signal::TERM);
        let mut heir = own;
        wait_until("the other to be shown", || {
            heir = workers(host)[1];
            heir != own
        });
        running.stop();
        send(u32::try_from(heir).unwrap(), Signal::KILL);
        old.kill().unwrap();
        old.wait().unwrap();
    });
}

#[test]
fn who_stays_is_not_taken_for_gone_while_many_others_go() {
    for open in [tcp, udp] {
        Host::with(move |host| {
            let mut sockets: Vec<_> = (0..400).map(|_| open(ADDRESS)).collect();
            let mut running = host.attach(&[":8000"]);
            drop(sockets.drain(..300));
            wait_until("the others to be alone", || workers(host).len() <= 100);
            let last = open(ADDRESS);
            running.wait_for("is steered too, in slot 400");
            let ended = running.stop();
            assert_eq!(ended.stdout.matches("is gone from slot").count(), 300, "{ended:?}");
            assert_eq!(ended.stdout.matches("is steered too").count(), 1, "{ended:?}");
            drop((sockets, last));
        });
    }
}

#[test]
fn one_more_than_can_be_steered_is_said_and_the_group_can_be_given_back() {
    Host::with(|host| {
        let most = balancer_common::MAX_MEMBERS as usize;
        let mut sockets: Vec<_> = (0..most).map(|_| tcp(ADDRESS)).collect();
        let mut running = host.attach(&[":8000"]);
        sockets.push(tcp(ADDRESS));
        running.wait_for(&format!("is steered too, in slot {most}"));
        host.succeed(&["policy", "hash"]);
        host.succeed(&["detach"]);
        let ended = running.ended();
        assert!(ended.stderr.contains("1025 live members, and 1024 is the most"), "{ended:?}");
        assert!(host.is_clean());
    });
}
