//! What a slot is said to have of flows, and flows that a worker begins.

use std::{net::UdpSocket, time::Duration};

use balancer_steering::{
    flows::{Flows, TIMEOUT},
    group::Protocol,
    policy::Policy,
};
use harness::{
    Host,
    group::{PATIENT, POLICIES, TestGroup},
    running::wait_until,
};

/// Two sockets of one group.
fn group(host: &Host, policy: Policy, flows: Flows) -> TestGroup {
    let address = ([127, 0, 0, 1], 0).into();
    TestGroup::flowing(host, Protocol::Udp, address, policy, PATIENT, Some(flows), &[1, 1])
}

fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// How many datagrams wait at each socket; takes them.
fn waiting(group: &TestGroup) -> Vec<usize> {
    let count = |socket: &socket2::Socket| {
        let mut octets = [std::mem::MaybeUninit::uninit(); 16];
        std::iter::from_fn(|| socket.recv_from(&mut octets).ok()).count()
    };
    group.sockets.iter().flatten().map(count).collect()
}

fn open(group: &TestGroup) -> Vec<u64> {
    group.snapshot().members.iter().filter_map(|member| member.open).collect()
}

#[test]
fn a_client_that_a_worker_writes_to_first_is_that_workers() {
    Host::with(|host| {
        let group = group(host, Policy::RoundRobin, Flows::default());
        let clients: Vec<UdpSocket> = (0..10).map(|_| client()).collect();
        let worker = group.sockets[1].as_ref().unwrap();
        for client in &clients {
            worker.send_to(b"!", &client.local_addr().unwrap().into()).unwrap();
        }
        assert_eq!(open(&group), [0, 10]);
        for client in &clients {
            client.send_to(b"?", group.address).unwrap();
        }
        assert_eq!(waiting(&group), [0, 10]);
    });
}

#[test]
fn an_unrelated_socket_that_writes_to_a_client_begins_nothing() {
    Host::with(|host| {
        let group = group(host, Policy::RoundRobin, Flows::default());
        let (unrelated, client) = (client(), client());
        unrelated.send_to(b"!", client.local_addr().unwrap()).unwrap();
        assert_eq!(open(&group), [0, 0]);
    });
}

#[test]
fn flows_that_have_ended_count_no_more_where_loads_are_compared() {
    Host::with(|host| {
        let flows = Flows::new(Duration::from_millis(300), 1);
        let group = group(host, Policy::LeastConnections, flows);
        let ended: Vec<UdpSocket> = (0..200).map(|_| client()).collect();
        for client in &ended {
            client.send_to(b"?", group.address).unwrap();
        }
        assert_eq!(group.snapshot().total().established, 200);
        wait_until("all flows to have ended", || open(&group) == [0, 0]);
        // Each that begins sweeps two sets of 64 besides its own.
        let clients: Vec<UdpSocket> = (0..40).map(|_| client()).collect();
        for client in &clients {
            client.send_to(b"?", group.address).unwrap();
        }
        let counted: Vec<u64> =
            (0..2).map(|slot| group.steering.counted_connections(slot)).collect();
        assert_eq!(counted, open(&group));
    });
}

#[test]
fn by_flows_the_member_with_the_fewest_is_chosen() {
    Host::with(|host| {
        let group = group(host, Policy::LeastConnections, Flows::new(TIMEOUT, 1));
        let busy = group.sockets[0].as_ref().unwrap();
        let known: Vec<UdpSocket> = (0..6).map(|_| client()).collect();
        for client in &known {
            busy.send_to(b"!", &client.local_addr().unwrap().into()).unwrap();
        }
        let clients: Vec<UdpSocket> = (0..10).map(|_| client()).collect();
        for client in &clients {
            client.send_to(b"?", group.address).unwrap();
        }
        assert_eq!((open(&group), waiting(&group)), (vec![8, 8], vec![2, 8]));
    });
}

#[test]
fn the_kernel_takes_every_policy_with_flows() {
    Host::with(|host| {
        let mut group = group(host, Policy::RoundRobin, Flows::default());
        for policy in POLICIES {
            group.steering.set_policy(policy, PATIENT).unwrap();
            let client = client();
            for _ in 0..6 {
                client.send_to(b"?", group.address).unwrap();
            }
            let mut waiting = waiting(&group);
            waiting.sort_unstable();
            assert_eq!(waiting, [0, 6], "{}", policy.name());
        }
    });
}
