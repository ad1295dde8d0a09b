//! Under policies that compare loads, a choice in one group of a service goes by what a worker has in all.

use std::{collections::BTreeMap, net::TcpStream, thread};

use harness::{Host, Running, needs_kernel, running::wait_until, sockets::tcp, there};

use super::{Nginx, selected, service, workers};

fn connect(address: &str, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Connections that each worker has open, in all groups.
fn open(host: &Host) -> BTreeMap<u32, u64> {
    let service = service(host);
    let workers = service["workers"].as_array().unwrap().iter();
    let number = |worker: &serde_json::Value, field: &str| worker[field].as_u64().unwrap();
    workers.map(|w| (number(w, "pid").try_into().unwrap(), number(w, "open"))).collect()
}

fn steered(host: &Host, policy: &str) -> Running {
    let args = ["attach", ":8000", ":8443", "--service", "web", "--policy", policy];
    let mut running = host.start(&args);
    running.wait_for("steering ");
    running
}

/// Has one of three workers get so many connections on the first address.
fn burden(host: &Host, all: &[u32], count: usize) -> Vec<TcpStream> {
    let others: Vec<String> = all[1..].iter().map(u32::to_string).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    host.succeed(&[&["drain", "--service", "web"], &others[..]].concat());
    let clients = connect(Nginx::ADDRESSES[0].0, count);
    host.succeed(&[&["resume", "--service", "web"], &others[..]].concat());
    assert_eq!(selected(host, Nginx::ADDRESSES[0].1)[&all[0]], count as u64);
    clients
}

#[test]
fn the_least_connections_are_those_of_the_worker_in_all_groups() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let _nginx = Nginx::start(host);
        let running = steered(host, "least-connections");
        let all = workers(host);
        let first = burden(host, &all, 6);
        let [_, (ipv6, ipv6_name), (other, other_name)] = Nginx::ADDRESSES;
        // The others have nothing, in any group.
        let _second = connect(other, 12);
        assert_eq!(selected(host, other_name), [(all[0], 0), (all[1], 6), (all[2], 6)].into());
        let _third = connect(ipv6, 3);
        assert_eq!(selected(host, ipv6_name), [(all[0], 1), (all[1], 1), (all[2], 1)].into());
        // What ends in one group counts in the others.
        drop(first);
        wait_until("the end of them", || open(host)[&all[0]] == 1);
        let _fourth = connect(ipv6, 6);
        assert_eq!(selected(host, ipv6_name)[&all[0]], 7);
        running.stop();
    });
}

#[test]
fn requests_under_way_are_those_of_the_worker_in_all_groups() {
    if !there("nginx") || !needs_kernel(6, 3) {
        return;
    }
    Host::with(|host| {
        let _nginx = Nginx::start(host);
        let running = steered(host, "least-requests");
        let all = workers(host);
        // Nothing is asked on them yet, so each is about to.
        let _first = burden(host, &all, 6);
        let (other, name) = Nginx::ADDRESSES[2];
        let _second = connect(other, 12);
        assert_eq!(selected(host, name), [(all[0], 0), (all[1], 6), (all[2], 6)].into());
        running.stop();
    });
}

#[test]
fn two_choices_go_by_all_groups_too() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let _nginx = Nginx::start(host);
        let running = steered(host, "two-choices");
        let all = workers(host);
        let _first = burden(host, &all, 40);
        let (other, name) = Nginx::ADDRESSES[2];
        // Of two that are drawn, one at least has fewer, however they are drawn.
        let _second = connect(other, 30);
        assert_eq!(selected(host, name)[&all[0]], 0);
        running.stop();
    });
}

#[test]
fn clients_of_all_addresses_at_once_leave_the_workers_even() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let _nginx = Nginx::start(host);
        let running = steered(host, "least-connections");
        for _ in 0..3 {
            let clients: Vec<TcpStream> = thread::scope(|scope| {
                let threads =
                    Nginx::ADDRESSES.map(|(address, _)| scope.spawn(move || connect(address, 67)));
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(clients.len(), 201);
            wait_until("all to be established", || open(host).values().sum::<u64>() == 201);
            let open = open(host);
            let (most, least) = (open.values().max().unwrap(), open.values().min().unwrap());
            assert!(most - least <= 1, "{open:?}");
            drop(clients);
            wait_until("all to be closed", || self::open(host).values().sum::<u64>() == 0);
        }
        running.stop();
    });
}

#[test]
fn after_a_reload_the_new_workers_are_joined_and_a_group_that_is_given_back_counts_no_more() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let nginx = Nginx::start(host);
        let running = steered(host, "least-connections");
        let before = workers(host);
        nginx.run(&["-s", "reload"]);
        wait_until("three others", || {
            let now = workers(host);
            now.len() == 3 && now.iter().all(|pid| !before.contains(pid))
        });
        let all = workers(host);
        let _first = burden(host, &all, 6);
        let (other, name) = Nginx::ADDRESSES[2];
        let _second = connect(other, 6);
        assert_eq!(selected(host, name)[&all[0]], 0);
        host.succeed(&["detach", "--group", Nginx::ADDRESSES[0].1]);
        // Now it has the fewest of those that are left.
        let _third = connect(other, 3);
        assert_eq!(selected(host, name), [(all[0], 3), (all[1], 3), (all[2], 3)].into());
        running.stop();
    });
}

#[test]
fn a_group_of_no_service_goes_by_itself() {
    Host::with(|host| {
        let _sockets = ["127.0.0.1:8000", "127.0.0.1:8443"].map(|at| [tcp(at), tcp(at)]);
        for address in [":8000", ":8443"] {
            host.succeed(&["attach", address, "--once", "--policy", "least-connections"]);
        }
        let _clients = ["127.0.0.1:8000", "127.0.0.1:8443"].map(|at| connect(at, 4));
        for group in ["tcp-8000", "tcp-8443"] {
            let status = super::status_of(host, group);
            let slots: Vec<_> = (0..2).map(|slot| &status["members"][slot]["selected"]).collect();
            assert_eq!(slots, [2, 2]);
        }
        host.succeed(&["detach", ":8000"]);
        host.succeed(&["detach"]);
    });
}
