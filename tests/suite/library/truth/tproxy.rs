//! Connections that TPROXY brings from another machine: the choice is made before they are delivered.

use std::net::{IpAddr, SocketAddr};

use balancer_steering::policy::Policy;
use harness::{Host, TestGroup, client::connect_from, group::PATIENT, nft, there};

use super::{
    IPV4, IPV6, drain_all_but, established, group,
    machine::{Neighbour, sh, sysctl},
    misses, since,
};

/// Clients whose address has, where a packet's data would have TCP's flags if it began at TCP: FIN, SYN,
/// RST, ACK, FIN with ACK, SYN with ACK, and none.
const CLIENTS_V4: [&str; 7] =
    ["10.1.0.2", "10.2.0.2", "10.4.0.2", "10.16.0.2", "10.17.0.2", "10.18.3.4", "10.32.0.2"];
const CLIENTS_V6: [&str; 7] = [
    "fd00:0:1::2",
    "fd00:0:2::2",
    "fd00:0:4::2",
    "fd00:0:10::2",
    "fd00:0:11::2",
    "fd00:0:12::2",
    "fd00:0:20::2",
];

/// Clients on another machine, whose connections to any address of the internet go to a group here.
struct Scene {
    neighbour: Neighbour,
    clients: Vec<IpAddr>,
    target: SocketAddr,
}

impl Scene {
    fn new(group: &TestGroup) -> Self {
        let port = group.address.port();
        let neighbour = Neighbour::new();
        let (ip, table, own, gateway, clients, listener, target) = match group.address {
            SocketAddr::V4(_) => {
                sysctl("net/ipv4/conf/all/rp_filter", "0");
                sysctl("net/ipv4/conf/there/rp_filter", "0");
                let listener = "127.0.0.1";
                ("ip", "ip", "10.0.0.1/8", "10.0.0.1", CLIENTS_V4, listener, "192.0.2.1:80")
            }
            SocketAddr::V6(_) => {
                let (ip, own) = ("ip -6", "fd00::1/16");
                (ip, "ip6", own, "fd00::1", CLIENTS_V6, "[::1]", "[2001:db8::1]:80")
            }
        };
        let nodad = if ip == "ip" { "" } else { "nodad" };
        let length = own.split_once('/').unwrap().1;
        sh(&format!("{ip} addr add {own} dev there {nodad}"));
        sh(&format!("{ip} rule add fwmark 1 lookup 100"));
        sh(&format!("{ip} route add local default dev lo table 100"));
        nft(&format!(
            "table {table} proxy {{ chain in {{ type filter hook prerouting priority mangle; \
             iifname there tcp dport 80 tproxy to {listener}:{port} meta mark set 1 accept; }}; }}"
        ));
        neighbour.run(move || {
            for client in clients {
                sh(&format!("{ip} addr add {client}/{length} dev here {nodad}"));
            }
            sh(&format!("{ip} route add default via {gateway}"));
        });
        for socket in group.sockets.iter().flatten() {
            // The option of IPv4 is the same for both.
            socket.set_ip_transparent_v4(true).unwrap();
        }
        let clients = clients.map(|client| client.parse().unwrap()).to_vec();
        Self { neighbour, clients, target: target.parse().unwrap() }
    }

    /// So many connections of each client; they stay open as long as they are kept.
    fn connect(&self, each: usize) -> Vec<std::net::TcpStream> {
        let (clients, target) = (self.clients.clone(), self.target);
        self.neighbour.run(move || {
            let turns = (0..each).flat_map(|_| clients.iter());
            let connect = |client: &IpAddr| {
                let from = SocketAddr::new(*client, 0);
                connect_from(from, target).unwrap_or_else(|error| panic!("{client}: {error}"))
            };
            turns.map(connect).collect()
        })
    }
}

/// Each kind of address on a host of its own, where the programs are there that it takes.
fn for_each_family(test: impl Fn(&Host, &str) + Clone + Send + 'static) {
    if !there("nft") || !there("ip") {
        return;
    }
    for address in [IPV4, IPV6] {
        let test = test.clone();
        Host::with(move |host| test(host, address));
    }
}

#[test]
fn whatever_a_clients_address_is_a_rotation_over_its_connections_is_even() {
    for_each_family(|host, address| {
        let mut group = group(host, address, Policy::RoundRobin, PATIENT, &[1; 4]);
        let scene = Scene::new(&group);
        let mut clients = Vec::new();
        for members in [4, 3, 2] {
            drain_all_but(&mut group, members);
            let before = (group.selected(), established(&group));
            clients.extend(scene.connect(members));
            let of_each = scene.clients.len() as u64;
            let each: Vec<u64> = (0..4).map(|slot| of_each * u64::from(slot < members)).collect();
            assert_eq!(since(&before.0, &group.selected()), each);
            assert_eq!(since(&before.1, &established(&group)), each);
        }
        assert_eq!(misses(&group), (0, 0));
    });
}

#[test]
fn connections_by_tproxy_keep_the_weights() {
    for_each_family(|host, address| {
        let group = group(host, address, Policy::Weighted, PATIENT, &[5, 3, 2]);
        let _clients = Scene::new(&group).connect(10);
        assert_eq!(group.selected(), [35, 21, 14]);
        assert_eq!(established(&group), [35, 21, 14]);
    });
}

#[test]
fn a_connection_by_tproxy_is_counted_once_for_the_worker_that_gets_it() {
    for_each_family(|host, address| {
        let mut group = group(host, address, Policy::Hash, PATIENT, &[1; 3]);
        let scene = Scene::new(&group);
        let mut clients = Vec::new();
        let others = [Policy::Random, Policy::LeastConnections, Policy::TwoChoices];
        for policy in others {
            group.steering.set_policy(policy, PATIENT).unwrap();
            let before = (group.selected(), established(&group));
            clients.extend(scene.connect(3));
            let selected = since(&before.0, &group.selected());
            assert_eq!(selected, since(&before.1, &established(&group)), "{policy:?}");
            assert_eq!(selected.iter().sum::<u64>(), 21, "{policy:?}");
        }
        assert_eq!(misses(&group), (0, 0));
    });
}

#[test]
fn a_client_by_tproxy_stays_with_its_worker() {
    for_each_family(|host, address| {
        let group = group(host, address, Policy::Sticky, PATIENT, &[1; 4]);
        let scene = Scene::new(&group);
        let mut clients = scene.connect(1);
        let before = group.selected();
        clients.extend(scene.connect(4));
        let expected: Vec<u64> = before.iter().map(|selected| selected * 5).collect();
        assert_eq!((group.selected(), established(&group)), (expected.clone(), expected));
    });
}
