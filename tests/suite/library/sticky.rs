//! `sticky`: the same client always finds the same worker, by its address, whatever else happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
};

use balancer_steering::{group::Protocol, policy::Policy, steering::Store};
use harness::{
    Host, TestGroup,
    client::{connect_from, request_from},
    group::PATIENT,
    running::{send, wait_until},
    there,
};
use rustix::process::Signal;

const CLIENTS: u8 = 48;

fn ipv4() -> impl Iterator<Item = IpAddr> {
    (1..=CLIENTS).map(|client| Ipv4Addr::new(127, 0, 1, client).into())
}

fn ipv6() -> impl Iterator<Item = IpAddr> {
    (1..=CLIENTS).map(|client| Ipv6Addr::new(0xfd00, 0, 0, client.into(), 0, 0, 0, 1).into())
}

/// Lets this host have all addresses that [`ipv6`] tells.
fn add_ipv6() -> bool {
    if !there("ip") {
        return false;
    }
    let route = ["-6", "route", "add", "local", "fd00::/16", "dev", "lo"];
    assert!(Command::new("ip").args(route).status().unwrap().success());
    // To connect from there, too.
    std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    true
}

/// Where a client finds the server.
fn server(client: IpAddr, port: u16) -> SocketAddr {
    match client {
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST, port).into(),
        IpAddr::V6(_) => (Ipv6Addr::LOCALHOST, port).into(),
    }
}

/// Who answers each client, from a port of the kernel's choosing.
fn ask(address: SocketAddr, clients: impl Iterator<Item = IpAddr>) -> BTreeMap<IpAddr, u32> {
    let slot = |ip| request_from((ip, 0).into(), server(ip, address.port())).unwrap().slot;
    clients.map(|ip| (ip, slot(ip))).collect()
}

#[test]
fn the_same_client_always_gets_the_same_worker_and_all_workers_get_some() {
    Host::with(|host| {
        let running = host.run(&["--workers", "4", "--policy", "sticky", "--listen", "[::]:0"]);
        let ipv6 = add_ipv6();
        let ask = || {
            let mut workers = ask(running.address(), ipv4());
            if ipv6 {
                workers.extend(ask(running.address(), self::ipv6()));
            }
            workers
        };
        let first = ask();
        assert_eq!(first.values().copied().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2, 3]));
        for _ in 0..3 {
            assert_eq!(ask(), first);
        }
        let status = host.status();
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        running.stop();
    });
}

#[test]
fn an_ipv4_client_finds_the_same_worker_on_a_dual_stack_socket() {
    Host::with(|host| {
        let start = |listen, name| {
            host.run(&["--workers", "5", "--policy", "sticky", "--listen", listen, "--name", name])
        };
        let (both, plain) = (start("[::]:0", "both"), start("0.0.0.0:0", "plain"));
        assert_eq!(ask(both.address(), ipv4()), ask(plain.address(), ipv4()));
        both.stop();
        plain.stop();
    });
}

#[test]
fn datagrams_of_a_client_go_to_one_worker_from_whatever_port() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Udp, Policy::Sticky, &[1; 4]);
        let mut used = BTreeSet::new();
        for client in ipv4() {
            let before = group.selected();
            for _port in 0..5 {
                let socket = UdpSocket::bind((client, 0)).unwrap();
                socket.send_to(b"x", group.address).unwrap();
            }
            let after = group.selected();
            let chosen: Vec<usize> = (0..4).filter(|&slot| after[slot] > before[slot]).collect();
            assert_eq!(chosen.len(), 1, "{client}: {before:?} {after:?}");
            used.extend(chosen);
        }
        assert_eq!(used.len(), 4);
        assert_eq!((group.snapshot().fallback, group.snapshot().errors), (0, 0));
    });
}

#[test]
fn when_a_worker_dies_only_its_clients_move_and_its_successor_gets_them_back() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "4", "--policy", "sticky"]);
        let before = ask(running.address(), ipv4());
        let dead = running.workers()[1];
        let gone = slot_of(host, dead);
        send(dead, Signal::KILL);
        running.wait_for("is back");
        let expected: BTreeMap<IpAddr, u32> =
            before.iter().map(|(&ip, &slot)| (ip, if slot == gone { 4 } else { slot })).collect();
        assert_eq!(ask(running.address(), ipv4()), expected);

        // When another is drained, the rest keep theirs.
        let drained = running.workers()[2];
        host.succeed(&["drain", &drained.to_string()]);
        let after = ask(running.address(), ipv4());
        let slot = slot_of(host, drained);
        for (ip, other) in after {
            assert!(other != slot && (other == expected[&ip] || expected[&ip] == slot), "{ip}");
        }
        running.stop();
    });
}

#[test]
fn a_reload_moves_nobodys_client_but_from_a_worker_to_its_successor() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "4", "--policy", "sticky"]);
        let before = ask(running.address(), ipv4());
        host.succeed(&["reload"]);
        let expected: BTreeMap<_, _> = before.iter().map(|(&ip, slot)| (ip, slot + 4)).collect();
        assert_eq!(ask(running.address(), ipv4()), expected);

        // And back from a successor that dies while its predecessor is held up by a connection.
        let before = host.workers(None);
        let (&ip, _) = expected.iter().find(|&(_, &slot)| slot == 4).unwrap();
        let client = connect_from((ip, 0).into(), running.address()).unwrap();
        running.signal(Signal::HUP);
        wait_until("a drain", || host.workers(Some("draining")) == before[..1]);
        let successor = host.workers(Some("live")).into_iter().find(|pid| !before.contains(pid));
        send(successor.unwrap(), Signal::KILL);
        running.wait_for("its predecessor serves on");
        assert_eq!(ask(running.address(), ipv4()), expected);
        drop(client);
        running.stop();
    });
}

fn slot_of(host: &Host, pid: u32) -> u32 {
    let status = host.status();
    let mut members = status["members"].as_array().unwrap().iter();
    let slot = members.find(|member| member["pid"] == pid).unwrap()["slot"].as_u64();
    u32::try_from(slot.unwrap()).unwrap()
}

/// The clients in a slot's queue, taken out of it.
fn queued(group: &TestGroup, slot: usize) -> BTreeSet<IpAddr> {
    let accepted = group.accept_all(slot);
    let peers = accepted.iter().map(|socket| socket.peer_addr().unwrap().as_socket().unwrap());
    peers.map(|peer| peer.ip().to_canonical()).collect()
}

#[test]
fn a_connection_that_migrates_goes_where_its_clients_next_one_will() {
    Host::with(|host| {
        let ipv6: Vec<_> = if add_ipv6() { ipv6().collect() } else { Vec::new() };
        migrate(host, Ipv4Addr::UNSPECIFIED.into(), &ipv4().collect::<Vec<_>>());
        migrate(host, Ipv6Addr::UNSPECIFIED.into(), &ipv4().chain(ipv6).collect::<Vec<_>>());
    });
}

fn migrate(host: &Host, at: IpAddr, clients: &[IpAddr]) {
    let (at, options) = ((at, 0).into(), PATIENT);
    let mut group = TestGroup::bound(host, Protocol::Tcp, at, Policy::Sticky, options, &[1, 1, 1]);
    let port = group.address.port();
    let connect = || -> Vec<_> {
        let clients = clients.iter().map(|&ip| connect_from((ip, 0).into(), server(ip, port)));
        clients.map(Result::unwrap).collect()
    };
    let _first = connect();
    let stayed = [queued(&group, 1), queued(&group, 2)];
    group.sockets[0] = None;
    let moved = [queued(&group, 1), queued(&group, 2)];
    assert!(moved.iter().all(|clients| clients.len() > 3), "{moved:?}");

    let _second = connect();
    assert_eq!(queued(&group, 1), &stayed[0] | &moved[0]);
    assert_eq!(queued(&group, 2), &stayed[1] | &moved[1]);
    assert_eq!((group.snapshot().fallback, group.snapshot().errors), (0, 0));
    Store::at(host.bpffs()).remove("test").unwrap();
}
