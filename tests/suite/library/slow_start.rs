//! `--slow-start`: a worker that joins others gets a tenth of its share at first, then more.

use std::net::SocketAddr;

use harness::{
    Host, Running,
    client::requests,
    running::{send, wait_until},
    servers::{Server, ask},
};
use rustix::process::Signal;

/// In which a cold worker has 2 turns, and a warm one 20.
const ROUND: usize = 22;

/// A step of it takes longer than a test.
const LONG: &str = "5h";

/// Two workers, the first of which is the successor of one that died.
fn with_successor(host: &Host, args: &[&str]) -> Running {
    let mut running = host.run(&[&["--workers", "2"], args].concat());
    assert_eq!(of(&running, 0, 20), 10, "those who start together are not cold");
    send(running.workers()[0], Signal::KILL);
    running.wait_for("is back");
    running
}

fn of(running: &Running, slot: u32, count: usize) -> usize {
    asked(running.address(), slot, count)
}

fn asked(address: SocketAddr, slot: u32, count: usize) -> usize {
    requests(address, count).iter().filter(|answer| answer.slot == slot).count()
}

#[test]
fn a_successor_begins_with_a_tenth_of_its_share_under_every_policy_with_shares() {
    Host::with(|host| {
        let running = with_successor(host, &["--slow-start", LONG]);
        assert_eq!(of(&running, 2, 3 * ROUND), 3 * 2);
        host.succeed(&["policy", "weighted"]);
        assert_eq!(of(&running, 2, 3 * ROUND), 3 * 2);
        for policy in ["random", "two-choices", "hash"] {
            host.succeed(&["policy", policy]);
            // 91 expected of 1000 at the most; the standard deviation is 9.
            let count = of(&running, 2, 1000);
            assert!(count < 160, "{policy}: {count}");
        }
        running.stop();
    });
}

#[test]
fn its_share_grows_until_it_is_whole() {
    Host::with(|host| {
        let running = with_successor(host, &["--slow-start", "2s"]);
        // Nobody but the agent can have published it.
        let mut shares = Vec::new();
        wait_until("half of the connections", || {
            shares.push(of(&running, 2, 40));
            shares.last() == Some(&20)
        });
        let status = host.status();
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        assert!(shares.iter().all(|&share| share <= 20), "{shares:?}");
        running.stop();
    });
}

#[test]
fn without_the_option_a_successor_has_its_share_at_once() {
    Host::with(|host| {
        let running = with_successor(host, &[]);
        assert_eq!(of(&running, 2, 40), 20);
        running.stop();
    });
}

#[test]
fn a_worker_that_was_drained_is_not_new() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--slow-start", LONG]);
        let pid = running.workers()[0].to_string();
        host.succeed(&["drain", &pid]);
        host.succeed(&["resume", &pid]);
        assert_eq!(of(&running, 0, 40), 20);
        running.stop();
    });
}

#[test]
fn a_server_that_joins_those_attached_begins_with_a_tenth() {
    const ADDRESS: &str = "127.0.0.1:8080";
    Host::with(|host| {
        let first = Server::several(2, "tcp", ADDRESS);
        let mut attached = host.attach(&[ADDRESS, "--slow-start", LONG]);
        let late = Server::start("tcp", ADDRESS);
        attached.wait_for("is steered too");
        let answers = ask(ADDRESS, 2 * (20 + 20 + 2));
        assert_eq!(answers[&late.pid()], 2 * 2);
        assert!(first.iter().all(|server| answers[&server.pid()] == 2 * 20), "{answers:?}");
        attached.stop();
    });
}

#[test]
fn once_is_refused_because_nobody_would_let_it_grow() {
    Host::with(|host| {
        let args = ["attach", ":8080", "--once", "--slow-start", "10s"];
        host.refuse(2, &args, &["--once", "--slow-start"]);
    });
}
