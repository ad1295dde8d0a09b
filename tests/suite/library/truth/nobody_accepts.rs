//! A listener from which nobody accepts, beside others that serve.

use std::{
    io::Read as _,
    net::{Shutdown, TcpStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use balancer_steering::{
    options::{PolicyOptions, STALL},
    policy::Policy,
    snapshot::MemberState,
};
use harness::{
    Host, TestGroup,
    client::request,
    group::PATIENT,
    running::{send, wait_until},
};
use rustix::process::Signal;
use socket2::Socket;

use super::{IPV4, POLICIES, group, misses, of_members, since};

/// Longer than a queue may stand still: after that a client has given up.
const GIVES_UP: Duration = STALL.saturating_add(Duration::from_millis(50));

/// Threads that accept, say a word and close.
struct Serving {
    sockets: Vec<Socket>,
    threads: Vec<JoinHandle<()>>,
}

impl Serving {
    /// From all members but one.
    fn from_all_but(group: &TestGroup, idle: usize) -> Self {
        let members = group.sockets.iter().flatten().enumerate();
        let others = members.filter(|(slot, _)| *slot != idle).map(|(_, socket)| socket);
        let sockets: Vec<Socket> = others.map(|socket| socket.try_clone().unwrap()).collect();
        let serve = |socket: &Socket| {
            socket.set_nonblocking(false).unwrap();
            let socket = socket.try_clone().unwrap();
            thread::spawn(move || {
                while let Ok((connection, _)) = socket.accept() {
                    let _ = connection.send(b".");
                }
            })
        };
        let threads = sockets.iter().map(serve).collect();
        Self { sockets, threads }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        for socket in &self.sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Whether a client is served before it gives up.
fn is_served(group: &TestGroup) -> bool {
    let mut client = TcpStream::connect(group.address).unwrap();
    client.set_read_timeout(Some(GIVES_UP)).unwrap();
    client.read(&mut [0]).is_ok_and(|read| read == 1)
}

/// The slot that shall be idle: under `sticky` the one of the only client, so that it matters.
fn idle_slot(group: &TestGroup, policy: Policy) -> usize {
    let before = group.selected();
    let client = group.connect(1);
    let slot = since(&before, &group.selected()).iter().position(|&chosen| chosen == 1).unwrap();
    drop(group.accept_all(slot));
    drop(client);
    if policy == Policy::Sticky { slot } else { 0 }
}

/// How many of so many clients, one after another, go to a member from which nobody accepts.
fn lost(host: &Host, policy: Policy, options: PolicyOptions, clients: usize) -> u64 {
    let group = group(host, IPV4, policy, options, &[1; 3]);
    let idle = idle_slot(&group, policy);
    let before = group.selected();
    let serving = Serving::from_all_but(&group, idle);
    let served = (0..clients).filter(|_| is_served(&group)).count();
    let given = since(&before, &group.selected());
    assert_eq!(given.iter().sum::<u64>(), clients as u64);
    assert_eq!(clients - served, usize::try_from(given[idle]).unwrap(), "{policy:?}: {given:?}");
    assert_eq!(misses(&group), (0, 0));
    drop(serving);
    group.steering.detach(&balancer_steering::steering::Store::at(host.bpffs())).unwrap();
    given[idle]
}

/// Policies of the table.
const BY_TABLE: [Policy; 5] =
    [Policy::Hash, Policy::RoundRobin, Policy::Weighted, Policy::Random, Policy::Cpu];

#[test]
fn by_default_it_costs_two_clients_at_most_under_policies_of_the_table() {
    Host::with(|host| {
        for policy in BY_TABLE {
            let lost = lost(host, policy, PolicyOptions::default(), 60);
            assert!((1..=2).contains(&lost), "{policy:?}: {lost}");
        }
    });
}

#[test]
fn by_default_it_costs_two_clients_at_most_under_all_other_policies() {
    Host::with(|host| {
        for policy in POLICIES.into_iter().filter(|policy| !BY_TABLE.contains(policy)) {
            let lost = lost(host, policy, PolicyOptions::default(), 60);
            assert!(lost <= 2, "{policy:?}: {lost}");
            if policy == Policy::Sticky {
                assert!(lost >= 1, "all clients are that slot's");
            }
        }
    });
}

#[test]
fn where_stalled_workers_are_not_to_be_avoided_it_goes_on_costing() {
    Host::with(|host| {
        assert_eq!(lost(host, Policy::RoundRobin, PATIENT, 12), 4);
    });
}

#[test]
fn once_it_accepts_it_has_its_share_again() {
    Host::with(|host| {
        for policy in [Policy::RoundRobin, Policy::Weighted] {
            let group = group(host, IPV4, policy, PolicyOptions::default(), &[1; 3]);
            let mut clients = group.connect(3);
            drop((group.accept_all(1), group.accept_all(2)));
            wait_until("it stands still", || {
                clients.extend(group.connect(2));
                drop((group.accept_all(1), group.accept_all(2)));
                group.snapshot().members[0].state == MemberState::Stalled
            });
            let before = group.selected();
            clients.extend(group.connect(30));
            assert_eq!(since(&before, &group.selected()), [0, 15, 15], "{policy:?}");
            drop(group.accept_all(0));
            assert_eq!(group.snapshot().members[0].state, MemberState::Live);
            let before = group.selected();
            clients.extend(group.connect(30));
            assert_eq!(since(&before, &group.selected()), [10; 3], "{policy:?}");
            group.steering.detach(&balancer_steering::steering::Store::at(host.bpffs())).unwrap();
        }
    });
}

const THRESHOLD: Duration = Duration::from_millis(50);

#[test]
fn a_worker_that_took_all_is_shown_as_live_though_nobody_came_since() {
    Host::with(|host| {
        let options = PolicyOptions { avoid_stalled: Some(THRESHOLD), ..PolicyOptions::default() };
        let group = group(host, IPV4, Policy::RoundRobin, options, &[1; 2]);
        let _clients = group.connect(12);
        let states = || group.snapshot().members.iter().map(|m| m.state).collect::<Vec<_>>();
        // By the clock alone: no choice looks at them.
        wait_until("both stand still", || states() == [MemberState::Stalled; 2]);
        for slot in 0..2 {
            drop(group.accept_all(slot));
        }
        let since = Instant::now();
        while since.elapsed() < 4 * THRESHOLD {
            assert_eq!(states(), [MemberState::Live; 2]);
        }
        let _more = group.connect(2);
        assert_eq!(group.selected(), [7, 7]);
    });
}

#[test]
fn a_worker_that_has_accepted_some_and_has_nothing_to_do_since_is_shown_as_live() {
    Host::with(|host| {
        let options = PolicyOptions { avoid_stalled: Some(THRESHOLD), ..PolicyOptions::default() };
        let group = group(host, IPV4, Policy::RoundRobin, options, &[1; 2]);
        // As they come, so no choice sees an empty queue after the last.
        let _clients = group.connect(12);
        let accept = |slot: usize| drop(group.sockets[slot].as_ref().unwrap().accept().unwrap());
        (0..6).for_each(|_| (0..2).for_each(accept));
        let since = Instant::now();
        while since.elapsed() < 4 * THRESHOLD {
            let members = group.snapshot().members;
            assert!(members.iter().all(|m| m.state == MemberState::Live), "{members:?}");
        }
    });
}

#[test]
fn a_queue_that_moves_slowly_is_live() {
    Host::with(|host| {
        let threshold = Duration::from_millis(300);
        let options = PolicyOptions { avoid_stalled: Some(threshold), ..PolicyOptions::default() };
        let group = group(host, IPV4, Policy::RoundRobin, options, &[1; 2]);
        let mut clients = group.connect(60);
        drop(group.accept_all(1));
        let start = Instant::now();
        let mut last = Instant::now();
        while start.elapsed() < 3 * threshold {
            let before = group.selected();
            clients.extend(group.connect(2));
            let members = group.snapshot().members;
            // This machine may stand still itself.
            if last.elapsed() < threshold {
                assert_eq!(since(&before, &group.selected()), [1, 1]);
                assert_eq!(members[0].state, MemberState::Live);
            }
            // One in six turns.
            if last.elapsed() >= threshold / 6 {
                drop(group.sockets[0].as_ref().unwrap().accept().unwrap());
                last = Instant::now();
            }
            drop(group.accept_all(1));
        }
    });
}

#[test]
fn a_stopped_worker_of_run_costs_two_clients_and_is_shown_as_stalled() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3", "--listen", IPV4]);
        let stopped = running.workers()[0];
        let of_stopped = |host: &Host| {
            let status = host.status();
            let members = status["members"].as_array().unwrap();
            let slot = members.iter().position(|member| member["pid"] == stopped).unwrap();
            let state = status["members"][slot]["state"].as_str().unwrap().to_owned();
            (of_members(&status, "selected")[slot], state)
        };
        send(stopped, Signal::STOP);
        let mut waiting = Vec::new();
        while of_stopped(host).1 != "stalled" {
            let mut client = harness::client::connect(running.address()).unwrap();
            client.set_read_timeout(Some(GIVES_UP)).unwrap();
            if client.read(&mut [0]).is_err() {
                waiting.push(client);
            }
        }
        let (given, _) = of_stopped(host);
        assert!(given <= 2 && given == waiting.len() as u64, "{given}, {}", waiting.len());
        for _ in 0..30 {
            assert_ne!(request(running.address()).unwrap().pid, stopped);
        }
        assert_eq!(of_stopped(host), (given, "stalled".to_owned()));
        send(stopped, Signal::CONT);
        wait_until("it serves again", || request(running.address()).unwrap().pid == stopped);
        assert_eq!(of_stopped(host).1, "live");
        running.stop();
    });
}
