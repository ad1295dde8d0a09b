//! Workers that stand still.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use balancer_steering::{
    group::Protocol, options::PolicyOptions, policy::Policy, snapshot::MemberState,
};
use harness::{
    Host, TestGroup,
    client::request,
    running::{send, wait_until},
};
use rustix::process::Signal;

const THRESHOLD: Duration = Duration::from_millis(50);

fn avoiding(host: &Host, protocol: Protocol, policy: Policy, members: usize) -> TestGroup {
    let options = PolicyOptions { avoid_stalled: Some(THRESHOLD), ..PolicyOptions::default() };
    TestGroup::spec(host, protocol, policy, options, &vec![1; members])
}

fn stalled(group: &TestGroup) -> Vec<usize> {
    let members = group.snapshot().members;
    let stalled = members.iter().enumerate().filter(|(_, m)| m.state == MemberState::Stalled);
    stalled.map(|(slot, _)| slot).collect()
}

/// Connections that come one by one, with all but `idle` accepted at once.
fn serve_all_but(group: &TestGroup, idle: &[usize], count: usize) -> Vec<std::net::TcpStream> {
    (0..count)
        .map(|_| {
            let client = group.connect(1).pop().unwrap();
            for slot in (0..group.sockets.len()).filter(|slot| !idle.contains(slot)) {
                drop(group.accept_all(slot));
            }
            client
        })
        .collect()
}

#[test]
fn a_worker_that_takes_nobody_is_left_out_until_its_queue_moves() {
    Host::with(|host| {
        for policy in [Policy::RoundRobin, Policy::Hash, Policy::Random, Policy::TwoChoices] {
            let group = avoiding(host, Protocol::Tcp, policy, 3);
            let mut clients = Vec::new();
            wait_until("slot 0 is seen to stand still", || {
                clients.extend(serve_all_but(&group, &[0], 1));
                stalled(&group) == [0]
            });
            let before = group.selected();
            clients.extend(serve_all_but(&group, &[0], 60));
            let after = group.selected();
            assert_eq!(after[0], before[0], "{policy:?}: it was given more");
            assert_eq!(after.iter().sum::<u64>() - before.iter().sum::<u64>(), 60);

            drop(group.accept_all(0));
            clients.extend(serve_all_but(&group, &[], 60));
            assert!(group.selected()[0] > after[0], "{policy:?}: it moves again");
            assert_eq!(stalled(&group), [0; 0]);
            assert_eq!((group.snapshot().fallback, group.snapshot().errors), (0, 0));
            group.steering.detach(&balancer_steering::steering::Store::at(host.bpffs())).unwrap();
        }
    });
}

#[test]
fn a_worker_that_is_merely_busy_is_never_left_out() {
    Host::with(|host| {
        let group = avoiding(host, Protocol::Tcp, Policy::RoundRobin, 2);
        // Slot 0 always has ten that wait, and takes the first of them now and then.
        let mut clients = group.connect(20);
        drop(group.accept_all(1));
        let end = Instant::now() + 4 * THRESHOLD;
        let (mut chosen, mut rounds) = (0, 0);
        while Instant::now() < end {
            let before = group.selected()[0];
            clients.extend(group.connect(2));
            drop(group.sockets[0].as_ref().unwrap().accept().unwrap());
            drop(group.accept_all(1));
            chosen += group.selected()[0] - before;
            rounds += 1;
        }
        assert_eq!(chosen, rounds, "of every two connections it gets one");
        assert_eq!(stalled(&group), [0; 0]);
    });
}

#[test]
fn if_all_stand_still_the_shortest_queue_is_chosen() {
    Host::with(|host| {
        let group = avoiding(host, Protocol::Tcp, Policy::RoundRobin, 3);
        let mut clients = group.connect(6);
        // One of them has a shorter queue than the others, and stands still like them.
        drop(group.sockets[1].as_ref().unwrap().accept().unwrap());
        wait_until("all are seen to stand still", || {
            clients.extend(group.connect(1));
            stalled(&group).len() == 3
        });
        let queues: Vec<usize> = group
            .selected()
            .iter()
            .zip([0, 1, 0])
            .map(|(&chosen, accepted)| usize::try_from(chosen).unwrap() - accepted)
            .collect();
        let before = group.selected();
        clients.extend(group.connect(1));
        let chosen = (0..3).find(|&slot| group.selected()[slot] > before[slot]).unwrap();
        assert_eq!(queues[chosen], *queues.iter().min().unwrap(), "{queues:?}, chosen {chosen}");
        assert_eq!(group.snapshot().fallback, 0);
    });
}

#[test]
fn a_udp_worker_that_reads_nothing_is_left_out_until_it_reads() {
    Host::with(|host| {
        let group = avoiding(host, Protocol::Udp, Policy::RoundRobin, 2);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let read_all = |slot: usize| {
            let socket = group.sockets[slot].as_ref().unwrap();
            while socket.recv(&mut [std::mem::MaybeUninit::uninit(); 8]).is_ok() {}
        };
        let send = || {
            client.send_to(b"x", group.address).unwrap();
            read_all(1);
        };
        wait_until("slot 0 is seen to stand still", || {
            send();
            stalled(&group) == [0]
        });
        let before = group.selected();
        (0..20).for_each(|_| send());
        assert_eq!(group.selected(), [before[0], before[1] + 20]);
        read_all(0);
        (0..20).for_each(|_| {
            send();
            read_all(0);
        });
        assert_eq!(group.selected(), [before[0] + 10, before[1] + 30]);
    });
}

#[test]
fn a_udp_worker_that_is_merely_busy_is_never_left_out() {
    Host::with(|host| {
        let group = avoiding(host, Protocol::Udp, Policy::RoundRobin, 2);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let send = |count| {
            for _ in 0..count {
                client.send_to(b"x", group.address).unwrap();
            }
        };
        // Each always has ten that wait, and reads one for each that comes.
        send(20);
        let end = Instant::now() + 4 * THRESHOLD;
        while Instant::now() < end {
            send(2);
            for socket in group.sockets.iter().flatten() {
                socket.recv(&mut [std::mem::MaybeUninit::uninit(); 8]).unwrap();
            }
            assert_eq!(stalled(&group), [0; 0]);
        }
        let selected = group.selected();
        assert_eq!(selected[0], selected[1]);
    });
}

#[test]
fn a_stopped_worker_is_shown_as_stalled_and_left_out_with_nobody_watching() {
    Host::with(|host| {
        let args = ["--workers", "2", "--avoid-stalled", "50ms", "--name", "web"];
        let running = host.run(&args);
        let address = running.address();
        let stopped = running.workers()[0];
        // The agent is no part of it.
        send(running.pid(), Signal::STOP);
        send(stopped, Signal::STOP);
        let state = |pid: u32| {
            let status = host.status();
            let members = status["members"].as_array().unwrap();
            members.iter().find(|m| m["pid"] == pid).unwrap()["state"].as_str().unwrap().to_owned()
        };
        let mut stuck = Vec::new();
        wait_until("it is seen to stand still", || {
            stuck.push(harness::client::connect(address).unwrap());
            state(stopped) == "stalled"
        });
        for _ in 0..30 {
            assert_ne!(request(address).unwrap().pid, stopped);
        }
        let shown = host.succeed(&["status"]);
        assert!(shown.contains("round-robin --avoid-stalled 50ms"), "{shown}");
        send(stopped, Signal::CONT);
        for client in stuck {
            harness::client::receive(client).expect("those who waited are served in the end");
        }
        wait_until("it gets connections again", || request(address).unwrap().pid == stopped);
        assert_eq!(state(stopped), "live");
        send(running.pid(), Signal::CONT);
        running.stop();
    });
}
