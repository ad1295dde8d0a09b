//! A queue that is full gets nobody while another has room, so no client waits for its SYN to be sent
//! again.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream, UdpSocket},
};

use balancer_steering::{group::Protocol, policy::Policy};
use harness::{
    Host, TestGroup,
    client::request,
    group::PATIENT,
    running::{send, wait_until},
    there,
};
use rustix::{io::Errno, process::Signal};
use socket2::{Domain, Socket, Type};

use super::{
    IPV4, IPV6, established, group,
    machine::{counter, delay_loopback, dropped, sysctl},
    misses, of_members, policies_at, since,
};

const MEMBERS: usize = 3;

/// The slot that shall be full. A client with one address has one slot under `sticky`: that one.
fn victim(group: &TestGroup, policy: Policy) -> usize {
    if policy != Policy::Sticky {
        return 0;
    }
    let before = group.selected();
    drop(group.connect(1));
    let slot = since(&before, &group.selected()).iter().position(|&chosen| chosen == 1).unwrap();
    drop(group.accept_all(slot));
    slot
}

/// Leaves room for one more than `backlog` in a queue, as the kernel counts.
fn limit(group: &mut TestGroup, slot: usize, backlog: i32) {
    group.sockets[slot].as_ref().unwrap().listen(backlog).unwrap();
    // A limit that is lowered while it is steered is seen a little later, or with the next table.
    group.steering.publish().unwrap();
}

/// Takes everybody out of all queues.
fn empty(group: &TestGroup) {
    (0..group.sockets.len()).for_each(|slot| drop(group.accept_all(slot)));
}

/// Whether a policy would give a slot of three more than a full one can take, though not by its load.
fn goes_by_load(policy: Policy) -> bool {
    matches!(policy, Policy::LeastConnections | Policy::TwoChoices | Policy::ShortestQueue)
}

#[test]
fn under_every_policy_a_full_queue_gets_nobody_while_another_has_room() {
    for address in [IPV4, IPV6] {
        Host::with(move |host| {
            let mut group = group(host, address, Policy::Hash, PATIENT, &[1; MEMBERS]);
            for policy in policies_at(address) {
                group.steering.set_policy(policy, PATIENT).unwrap();
                let full = victim(&group, policy);
                for backlog in [0, 1, 5] {
                    limit(&mut group, full, backlog);
                    let before = (group.selected(), established(&group));
                    let clients = group.connect(100);
                    let given = since(&before.0, &group.selected());
                    let what = format!("{policy:?} at {address}, backlog {backlog}: {given:?}");
                    // Of a hundred, each policy would give it a multiple of what it has room for.
                    assert_eq!(given[full], u64::try_from(backlog).unwrap() + 1, "{what}");
                    assert_eq!(given.iter().sum::<u64>(), 100, "{what}");
                    assert_eq!(given, since(&before.1, &established(&group)), "{what}");
                    assert_eq!((dropped(), misses(&group)), ((0, 0), (0, 0)), "{what}");
                    drop(clients);
                    empty(&group);
                }
                limit(&mut group, full, 1024);
            }
        });
    }
}

#[test]
fn what_a_full_queue_does_not_get_is_shared_by_the_others_evenly() {
    Host::with(|host| {
        let mut group = group(host, IPV4, Policy::RoundRobin, PATIENT, &[1; 4]);
        limit(&mut group, 2, 0);
        let _clients = group.connect(61);
        assert_eq!(group.selected(), [20, 20, 1, 20]);
        drop(group.accept_all(2));
        let _more = group.connect(1);
        let last = since(&[20, 20, 1, 20], &group.selected());
        assert_eq!(last.iter().sum::<u64>(), 1);
        limit(&mut group, 2, 1024);
        let before = group.selected();
        let _all = group.connect(40);
        assert_eq!(since(&before, &group.selected()), [10; 4], "it has room again");
        assert_eq!(dropped(), (0, 0));
    });
}

/// Begins so many connections and waits for none of them.
fn begin(address: SocketAddr, count: usize) -> Vec<Socket> {
    (0..count)
        .map(|_| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let error = socket.connect(&address.into()).err();
            let in_progress = Errno::INPROGRESS.raw_os_error();
            assert!(error.is_none_or(|error| error.raw_os_error() == Some(in_progress)));
            socket
        })
        .collect()
}

#[test]
fn handshakes_under_way_take_room_in_a_queue_as_well() {
    if !there("tc") {
        return;
    }
    for address in [IPV4, IPV6] {
        Host::with(move |host| {
            let mut group = group(host, address, Policy::Hash, PATIENT, &[1; MEMBERS]);
            delay_loopback("12mbit");
            for policy in
                policies_at(address).into_iter().filter(|policy| *policy != Policy::Sticky)
            {
                group.steering.set_policy(policy, PATIENT).unwrap();
                limit(&mut group, 0, 5);
                let before = (group.selected(), established(&group));
                let clients = begin(group.address, 100);
                let came = || since(&before.1, &established(&group));
                wait_until("all handshakes", || came().iter().sum::<u64>() == 100);
                let (given, came) = (since(&before.0, &group.selected()), came());
                let what = format!("{policy:?} at {address}: {given:?}");
                assert!(given[0] <= 6, "{what}");
                assert_eq!((given.iter().sum::<u64>(), &given), (100, &came), "{what}");
                assert_eq!((dropped(), misses(&group)), ((0, 0), (0, 0)), "{what}");
                if !goes_by_load(policy) {
                    assert_eq!(given[0], 6, "{what}");
                }
                drop(clients);
                empty(&group);
            }
        });
    }
}

#[test]
fn when_all_queues_are_full_syns_are_dropped_everywhere_and_nothing_falls_back() {
    for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::Sticky] {
        Host::with(move |host| {
            let mut group = group(host, IPV4, policy, PATIENT, &[1; MEMBERS]);
            (0..MEMBERS).for_each(|slot| limit(&mut group, slot, 1));
            let mut clients = begin(group.address, 2 * MEMBERS);
            assert_eq!((established(&group), dropped()), (vec![2; MEMBERS], (0, 0)), "{policy:?}");
            clients.extend(begin(group.address, 60));
            assert!(dropped().0 >= 60, "{:?}", dropped());
            let given = since(&[2; MEMBERS], &group.selected());
            assert!(given.iter().sum::<u64>() >= 60, "{policy:?}: {given:?}");
            // All queues are of one length: which is the shortest is another's turn each time.
            assert!(given.iter().all(|chosen| *chosen > 5), "{policy:?}: {given:?}");
            assert_eq!(misses(&group), (0, 0), "{policy:?}");
            // Once there is room, they come in with the SYN that they send again.
            (0..MEMBERS).for_each(|slot| limit(&mut group, slot, 1024));
            wait_until("all to come in", || {
                established(&group).iter().sum::<u64>() == clients.len() as u64
            });
            assert_eq!(misses(&group), (0, 0), "{policy:?}");
        });
    }
}

#[test]
fn under_every_policy_a_datagram_goes_where_there_is_room_for_it() {
    // The kernel takes one of any size into a buffer that is empty.
    datagrams_of(4096, 1);
}

#[test]
fn a_buffer_that_has_not_room_for_one_more_datagram_gets_none() {
    // Six of these fit, and leave less room than a seventh needs.
    datagrams_of(512, 4096);
}

/// Sends datagrams of so many octets while one socket has a buffer of so many; all shall arrive.
fn datagrams_of(octets: usize, buffer: usize) {
    // UDP has no connections to go by.
    let by_connections = |p: &Policy| matches!(p, Policy::LeastConnections | Policy::TwoChoices);
    for address in [IPV4, IPV6] {
        Host::with(move |host| {
            let at = address.parse().unwrap();
            let weights = [1; MEMBERS];
            let mut group =
                TestGroup::bound(host, Protocol::Udp, at, Policy::Hash, PATIENT, &weights);
            for policy in policies_at(address).into_iter().filter(|policy| !by_connections(policy))
            {
                group.steering.set_policy(policy, PATIENT).unwrap();
                let full = send_all(&group, address, 1, octets)[0];
                let socket = group.sockets[full].as_ref().unwrap();
                let usual = socket.recv_buffer_size().unwrap();
                assert_eq!(read_all(&group), 1);
                socket.set_recv_buffer_size(buffer).unwrap();
                let slots = send_all(&group, address, 20, octets);
                let given = slots.iter().filter(|slot| **slot == full).count();
                let what = format!("{policy:?} at {address}: {given} of 20");
                assert!((1..10).contains(&given), "{what}");
                assert_eq!(read_all(&group), 20, "{what}: all arrive");
                // The kernel doubles what is asked for.
                socket.set_recv_buffer_size(usual / 2).unwrap();
            }
            let (file, table) = if address == IPV4 { ("snmp", "Udp") } else { ("snmp6", "Udp6") };
            assert_eq!(counter(file, table, "RcvbufErrors"), 0);
            assert_eq!(misses(&group), (0, 0));
        });
    }
}

/// Sends so many datagrams, from a port each; the slots that they went to.
fn send_all(group: &TestGroup, own: &str, count: usize, octets: usize) -> Vec<usize> {
    let mut before = group.selected();
    let mut slots = Vec::new();
    for _ in 0..count {
        let client = UdpSocket::bind(own).unwrap();
        client.send_to(&vec![0; octets], group.address).unwrap();
        let after = group.selected();
        slots.push(since(&before, &after).iter().position(|&chosen| chosen == 1).unwrap());
        before = after;
    }
    slots
}

/// Reads all that has arrived: how many datagrams.
fn read_all(group: &TestGroup) -> usize {
    let read = |socket: &Socket| {
        let buffer = &mut [std::mem::MaybeUninit::uninit(); 4096];
        match socket.recv(buffer) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    };
    let sockets = group.sockets.iter().flatten();
    sockets.map(|socket| std::iter::from_fn(|| read(socket).then_some(())).count()).sum()
}

#[test]
fn a_worker_that_stands_still_with_a_full_queue_costs_its_own_agent_no_syn() {
    Host::with(|host| {
        // It bounds what a worker asks for when it listens.
        sysctl("net/core/somaxconn", "4");
        let args = ["--workers", "3", "--avoid-stalled", "off", "--listen", IPV4];
        let running = host.run(&args);
        let stopped = running.workers()[0];
        send(stopped, Signal::STOP);
        let mut waiting: Vec<TcpStream> = Vec::new();
        let mut served = 0;
        let slot = |status: &serde_json::Value| {
            let members = status["members"].as_array().unwrap();
            members.iter().position(|member| member["pid"] == stopped).unwrap()
        };
        while of_members(&host.status(), "open")[slot(&host.status())] < 5 {
            waiting.push(TcpStream::connect(running.address()).unwrap());
        }
        for _ in 0..30 {
            assert_ne!(request(running.address()).unwrap().pid, stopped);
            served += 1;
        }
        let status = host.status();
        assert_eq!((served, of_members(&status, "selected")[slot(&status)]), (30, 5));
        assert_eq!((dropped(), &status["fallback"]), ((0, 0), &0.into()));
        send(stopped, Signal::CONT);
        running.stop();
    });
}
