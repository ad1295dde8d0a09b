//! A hundred thousand connections, opened, closed, reset by either side, half-closed and migrated, while
//! workers are killed, stopped and replaced and policies switched: at each quiet moment what is counted is
//! what the kernel lists, member by member, and at the end it is nothing. Nothing sets counts right in
//! between.

use std::{
    io::Write as _,
    net::{Shutdown, SocketAddr, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use balancer_steering::steering::{Steering, Store};
use harness::{
    Host,
    running::{send, try_until, wait_until},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use socket2::SockRef;

use super::everything::{counted, listed, live_workers};

const ROUNDS: u64 = 50;
const CLIENTS: u64 = 8;
const EACH: u64 = 250;
const HELD: usize = 20;

const POLICIES: [&str; 8] = [
    "kernel",
    "round-robin",
    "least-connections",
    "hash",
    "two-choices",
    "shortest-queue",
    "random",
    "sticky",
];

#[test]
fn a_hundred_thousand_connections_are_counted_exactly() {
    Host::with(|host| exact(host, false));
}

#[test]
fn a_hundred_thousand_connections_are_counted_exactly_when_packets_come_late() {
    Host::with(|host| {
        // With a queue that a timer empties, packets are delivered in the middle of whatever the CPU does,
        // as with a network card.
        let queue = "qdisc add dev lo root tbf rate 20mbit burst 1600 latency 200ms";
        let delayed = Command::new("tc").args(queue.split(' ')).status();
        if !delayed.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: this kernel has no tbf");
            return;
        }
        exact(host, true);
    });
}

/// If packets may be `dropped`, a worker may not hear of a reset, which is never sent again: what the kernel
/// then still lists, counts.
fn exact(host: &Host, dropped: bool) {
    let args = ["--workers", "4", "--name", "web", "--drain-timeout", "1s"];
    let mut running = host.run(&args);
    let address = running.address();
    let steering = Steering::open(&Store::at(host.bpffs()), "web").unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(12);
    let mut held: Vec<Vec<TcpStream>> = (0..CLIENTS).map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        thread::scope(|scope| {
            for (client, held) in (0..).zip(&mut held) {
                scope.spawn(move || connect(address, round * CLIENTS + client, held));
            }
            disturb(host, &mut random);
        });
        let mut last = (Vec::new(), Vec::new());
        let agrees = try_until(|| {
            // None is to be missing while another takes its place.
            if live_workers(host).len() < 4 {
                return false;
            }
            last = (counted(&steering), listed(&steering));
            last.0 == last.1
        });
        assert!(agrees, "round {round}: {last:?}\n{}", host.succeed(&["status"]));
    }
    let open: u64 = counted(&steering).iter().sum();
    assert!(open > 0, "nothing was held");
    held.clear();
    let mut last = (Vec::new(), Vec::new());
    let nothing = try_until(|| {
        last = (counted(&steering), listed(&steering));
        last.0 == last.1 && last.0.iter().all(|open| *open == 0)
    });
    assert!(nothing || dropped && last.0 == last.1, "counted and listed: {last:?}");
    let established: u64 = steering.snapshot().unwrap().total().established;
    // Not all: a worker that is killed resets what nobody can take.
    assert!(established > ROUNDS * CLIENTS * EACH * 9 / 10, "{established}");
    running.signal(Signal::INT);
    running.wait_for("errors");
    running.ended();
}

/// What a client does: each connection is one of several kinds.
fn connect(address: SocketAddr, seed: u64, held: &mut Vec<TcpStream>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..EACH {
        // One that comes to a worker that is killed just then may fail.
        let Ok(mut client) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
            continue;
        };
        match random.random_range(0..100) {
            0..40 => {}
            40..70 => drop(SockRef::from(&client).set_linger(Some(Duration::ZERO))),
            // No HTTP: the worker closes, and resets what it has not read.
            70..80 => drop(client.write_all(&[0; 300])),
            80..90 => drop(client.shutdown(Shutdown::Write)),
            _ => held.push(client),
        }
        if held.len() > HELD {
            drop(held.swap_remove(random.random_range(0..held.len())));
        }
    }
}

/// What happens meanwhile.
fn disturb(host: &Host, random: &mut ChaCha8Rng) {
    let policy = POLICIES[random.random_range(0..POLICIES.len())];
    let workers = live_workers(host);
    let Some(&victim) = workers.get(random.random_range(0..workers.len().max(1))) else { return };
    match random.random_range(0..6) {
        0 | 1 => drop(host.succeed(&["policy", policy])),
        2 => send(victim, Signal::KILL),
        3 => {
            // With a queue, which migrates.
            send(victim, Signal::STOP);
            host.succeed(&["policy", policy]);
            send(victim, Signal::KILL);
        }
        4 => {
            send(victim, Signal::STOP);
            host.succeed(&["status"]);
            send(victim, Signal::CONT);
        }
        _ => {
            host.succeed(&["policy", "round-robin"]);
            host.succeed(&["reload"]);
        }
    }
    wait_until("all workers are there", || live_workers(host).len() == 4);
}
