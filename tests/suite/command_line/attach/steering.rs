//! What is attached is steered, exactly, and given back without a trace.

use std::{collections::HashSet, net::TcpStream, process::Command, sync::mpsc::channel, thread};

use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{ProgramInfo, loaded_programs},
};
use balancer_common::maps::ALL;
use balancer_lab::sandbox;
use harness::{
    Host,
    running::{send, wait_until, wait_until_gone, watch},
    servers::{Client, Server, ask},
    sockets::{Opening, tcp, udp},
    there,
};
use rustix::{process::Signal, thread::gettid};

use super::{ADDRESS, each, selected, workers};

/// The numbers, machine-wide, of what is pinned of a group.
fn pinned_ids(host: &Host, group: &str) -> (Vec<u32>, Vec<u32>) {
    let pins = std::fs::read_dir(host.pins(group)).unwrap().flatten().map(|pin| pin.path());
    let (programs, maps): (Vec<_>, Vec<_>) =
        pins.partition(|pin| pin.file_name().unwrap().to_string_lossy().starts_with("bal_"));
    let program = |pin| ProgramInfo::from_pin(pin).unwrap().id();
    let map = |pin| MapInfo::from_pin(pin).unwrap().id();
    (programs.into_iter().map(program).collect(), maps.into_iter().map(map).collect())
}

#[test]
fn three_servers_started_by_hand_share_exactly_until_ctrl_c_leaves_nothing() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(3, "tcp", ADDRESS);
        let running = host.attach(&[":8000"]);
        assert_eq!(ask(ADDRESS, 300), each(&servers, 100));
        let (programs, maps) = pinned_ids(host, "tcp-8000");
        assert_eq!((programs.len(), maps.len()), (1, ALL.len()));
        let ended = running.stop();
        assert!(ended.status.success(), "{ended:?}");
        assert!(ended.stdout.contains("300 connections; 0 left to the kernel's hash"), "{ended:?}");
        assert!(host.is_clean());
        wait_until("the kernel to be free of it", || {
            loaded_programs().flatten().all(|program| !programs.contains(&program.id()))
                && loaded_maps().flatten().all(|map| !maps.contains(&map.id()))
        });
        // The servers go on, and a rotation is what the kernel's hash is not.
        let again = (0..5).map(|_| ask(ADDRESS, 60)).filter(|a| *a != each(&servers, 20)).count();
        assert_ne!(again, 0);
    });
}

#[test]
fn once_stays_after_the_command_has_ended_until_detach() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(3, "tcp", ADDRESS);
        let said = host.succeed(&["attach", ":8000", "--once", "--name", "web"]);
        assert_eq!(said, "steering tcp/127.0.0.1:8000, policy round-robin, 3 members, group web\n");
        assert_eq!(ask(ADDRESS, 30), each(&servers, 10));
        let mut pids: Vec<u64> = servers.iter().map(|server| server.pid().into()).collect();
        let mut shown = workers(host);
        pids.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, pids);
        let said = host.succeed(&["detach", ":8000"]);
        assert_eq!(said, "web: given back to the kernel's hash; its workers go on\n");
        assert!(host.is_clean());
        ask(ADDRESS, 5);
    });
}

#[test]
fn weights_and_policies_work_as_with_workers_of_our_own() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(2, "tcp", ADDRESS);
        let running = host.attach(&[ADDRESS, "--policy", "weighted"]);
        host.succeed(&["weight", &format!("{}=3", servers[0].pid())]);
        assert_eq!(ask(ADDRESS, 40)[&servers[0].pid()], 30);
        host.succeed(&["policy", "round-robin"]);
        assert_eq!(ask(ADDRESS, 40), each(&servers, 20));
        running.stop();
    });
}

#[test]
fn a_weight_is_that_of_every_socket_of_its_process() {
    Host::with(|host| {
        let _ours = [tcp(ADDRESS), tcp(ADDRESS)];
        host.succeed(&["attach", ADDRESS, "--once", "--policy", "weighted"]);
        host.succeed(&["weight", &format!("{}=7", std::process::id())]);
        let status = host.status();
        let weights = status["members"].as_array().unwrap().iter().map(|member| &member["weight"]);
        assert_eq!(weights.collect::<Vec<_>>(), [7, 7]);
        host.succeed(&["detach"]);
    });
}

#[test]
fn without_flows_datagrams_of_one_client_are_spread_by_round_robin_and_kept_together_by_hash() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(3, "udp", ADDRESS);
        let running = host.attach(&[":8000", "--udp", "--flow", "none"]);
        let client = Client::of(ADDRESS);
        let answers: HashSet<u32> = (0..3).map(|_| client.ask()).collect();
        assert_eq!(answers.len(), servers.len());
        host.succeed(&["policy", "hash"]);
        let answers: HashSet<u32> = (0..30).map(|_| client.ask()).collect();
        assert_eq!(answers.len(), 1);
        assert_eq!(host.status()["group"]["name"], "udp-8000");
        running.stop();
        assert!(host.is_clean());
    });
}

#[test]
fn ipv6_is_steered_and_ipv4_with_it_where_the_sockets_take_both() {
    Host::with(|host| {
        let _sockets = [(); 2].map(|()| {
            Opening::tcp("[::]:8000").with(|s| s.set_only_v6(false).unwrap()).at("[::]:8000")
        });
        host.succeed(&["attach", "[::]:8000", "--once"]);
        let clients = |address: &str| [(); 6].map(|()| TcpStream::connect(address).unwrap());
        let _clients = [clients("[::1]:8000"), clients("127.0.0.1:8000")];
        assert_eq!(selected(&host.status()), [6, 6]);
        host.succeed(&["detach"]);
    });
}

#[test]
fn two_groups_on_one_port_are_never_mixed() {
    Host::with(|host| {
        let _here = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8000")];
        let _everywhere = [(); 3].map(|()| tcp("0.0.0.0:8000"));
        let _datagrams = udp("127.0.0.1:8000");
        let message = host.fail(2, &["attach", ":8000"]);
        for part in [
            ":8000 is served by 3 groups",
            "balancer attach 0.0.0.0:8000    3 sockets",
            "balancer attach 127.0.0.1:8000    2 sockets",
            "balancer attach 127.0.0.1:8000 --udp    1 sockets",
        ] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(host.is_clean());
        host.succeed(&["attach", "0.0.0.0:8000", "--once", "--name", "everywhere"]);
        host.succeed(&["attach", "127.0.0.1:8000", "--once", "--name", "here"]);
        // The exact address is asked first.
        let _clients = [(); 4].map(|()| TcpStream::connect("127.0.0.1:8000").unwrap());
        let status = |group| {
            let text = host.succeed(&["status", "--json", "--group", group]);
            selected(&serde_json::from_str(&text).unwrap())
        };
        assert_eq!(status("here"), [2, 2]);
        assert_eq!(status("everywhere"), [0, 0, 0]);
        let message = host.fail(1, &["detach", ":8000"]);
        assert!(message.contains("everywhere (tcp/0.0.0.0:8000)"), "{message}");
        host.succeed(&["detach", "127.0.0.1:8000"]);
        host.succeed(&["detach", ":8000"]);
        assert!(host.is_clean());
    });
}

#[test]
fn a_group_in_another_network_namespace_is_steered_from_here() {
    Host::with(|host| {
        let (send_place, place) = channel();
        let (connect, told) = channel::<()>();
        let (send_done, done) = channel();
        let elsewhere = thread::spawn(move || {
            let directory = tempfile::tempdir().unwrap();
            sandbox::enter(directory.path()).unwrap();
            let mut sockets = vec![tcp(ADDRESS), tcp(ADDRESS)];
            let thread = gettid().as_raw_nonzero();
            send_place.send(format!("/proc/{}/task/{thread}/ns/net", std::process::id())).unwrap();
            let mut clients = Vec::new();
            while told.recv().is_ok() {
                clients.extend((0..6).map(|_| TcpStream::connect(ADDRESS).unwrap()));
                sockets.push(tcp(ADDRESS));
                send_done.send(()).unwrap();
            }
        });
        let place = place.recv().unwrap();
        assert!(host.fail(1, &["attach", ":8000"]).contains("--netns"));
        let mut running = host.attach(&[":8000", "--netns", &place]);
        connect.send(()).unwrap();
        done.recv().unwrap();
        // It was opened after those connections were made.
        running.wait_for("is steered too");
        assert_eq!(selected(&host.status()), [3, 3, 0]);
        running.stop();
        assert!(host.is_clean());
        drop(connect);
        elsewhere.join().unwrap();
    });
}

#[test]
fn what_a_killed_agent_leaves_is_steered_shown_and_given_back() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(3, "tcp", ADDRESS);
        let running = host.attach(&[":8000"]);
        let agent = watch(running.pid());
        send(running.pid(), Signal::KILL);
        wait_until_gone(&agent, "the agent");
        assert_eq!(ask(ADDRESS, 30), each(&servers, 10));
        let message = host.fail(1, &["attach", ":8000"]);
        assert!(message.contains("balancer detach --group tcp-8000"), "{message}");
        assert_eq!(selected(&host.status()), [10, 10, 10]);
        host.succeed(&["detach", ":8000"]);
        assert!(host.is_clean());
        ask(ADDRESS, 3);
    });
}

#[test]
fn nobody_keeps_a_servers_socket_open_but_the_server() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let servers = Server::several(3, "tcp", ADDRESS);
        let running = host.attach(&[":8000"]);
        let text = host.succeed(&["groups", "--json", "--netns", &servers[0].pid().to_string()]);
        let listing: serde_json::Value = serde_json::from_str(&text).unwrap();
        for socket in listing["groups"][0]["sockets"].as_array().unwrap() {
            assert_eq!(socket["holders"].as_array().unwrap().len(), 1, "{socket}");
        }
        servers.into_iter().for_each(Server::kill);
        let refused = TcpStream::connect(ADDRESS).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        running.stop();
    });
}

#[test]
fn detach_finds_who_else_has_a_socket_whose_worker_is_gone() {
    Host::with(|host| {
        // Children go before their parents, so the child is taken for the worker.
        let socket = tcp(ADDRESS);
        let inherited = rustix::io::dup(std::os::fd::AsFd::as_fd(&socket)).unwrap();
        let mut child = Command::new("sleep").arg("600").stdin(inherited).spawn().unwrap();
        // A test beside this one that starts a process gives it all descriptors for a moment: a child too.
        wait_until("the child to be taken for the worker", || {
            host.succeed(&["attach", ":8000", "--once"]);
            let taken = workers(host) == [u64::from(child.id())];
            if !taken {
                host.succeed(&["detach"]);
            }
            taken
        });
        child.kill().unwrap();
        child.wait().unwrap();
        host.succeed(&["detach"]);
        assert!(host.is_clean());
    });
}
