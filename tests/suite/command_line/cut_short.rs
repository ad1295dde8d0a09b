//! A reload that is cut short, by the end of a successor or of balancer itself: there are as many workers
//! as before, and the next reload goes on from there.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use harness::{
    Host, Running, fifo,
    line::{Client, SERVER, ask},
    running::{all_new, send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;

/// Two of the server that answers lines, on a fixed port, to be found again.
fn run(host: &Host, args: &[&str], words: &[&str]) -> Running {
    let fixed = ["--listen", "127.0.0.1:8090", "--workers", "2", "--idle-grace", "off"];
    host.run(&[&fixed, args, &["--", "python3", SERVER, "handed"], words].concat())
}

/// Once the one that a reload had set aside is gone, there are these workers, and a reload works.
fn whole_again(host: &Host, agent: Running, expected: &[u32]) {
    wait_until("the one set aside to end", || host.workers(None) == expected);
    assert_eq!(host.workers(Some("live")), expected);
    assert_eq!(by_pid(agent.address(), 20), [10, 10]);
    host.succeed(&["reload"]);
    assert_eq!(host.workers(Some("live")).len(), 2);
    agent.stop();
}

fn by_pid(address: SocketAddr, count: usize) -> Vec<usize> {
    let mut counts = BTreeMap::<u32, usize>::new();
    for _ in 0..count {
        *counts.entry(ask(address).unwrap()).or_default() += 1;
    }
    counts.into_values().collect()
}

#[test]
fn a_reload_that_was_cut_short_leaves_neither_too_many_nor_too_few() {
    Host::with_python(|host| {
        let agent = run(host, &[], &[]);
        let before = host.workers(None);
        let mut clients = [0; 2].map(|_| Client::connect(agent.address()).unwrap());
        let _pids = clients.each_mut().map(|client| client.ask().unwrap());
        agent.signal(Signal::HUP);
        wait_until("a drain", || host.workers(Some("draining")) == before[..1]);
        let expected = host.workers(Some("live"));
        // Both serve, and have said all that they say when they start.
        assert_eq!(by_pid(agent.address(), 4), [2, 2]);
        agent.kill();
        let agent = run(host, &["--takeover"], &[]);
        // It still has its connection.
        assert_eq!(host.workers(Some("draining")), before[..1]);
        drop(clients);
        whole_again(host, agent, &expected);
    });
}

#[test]
fn who_was_set_aside_is_known_to_the_third_balancer_too() {
    Host::with_python(|host| {
        let agent = run(host, &[], &[]);
        let before = host.workers(None);
        let mut clients = [0; 2].map(|_| Client::connect(agent.address()).unwrap());
        let _pids = clients.each_mut().map(|client| client.ask().unwrap());
        let drains = |count: usize| {
            wait_until("a drain", || host.workers(Some("draining")) == before[..count]);
        };
        agent.signal(Signal::HUP);
        drains(1);
        agent.kill();
        // The second one waits for the first, and sets the other aside too: its turn comes first.
        let agent = run(host, &["--takeover"], &[]);
        agent.signal(Signal::HUP);
        drains(2);
        agent.kill();
        let expected = host.workers(Some("live"));
        let agent = run(host, &["--takeover"], &[]);
        all_new(&before, &expected);
        assert_eq!(host.workers(Some("draining")), before);
        let refusal = host.fail(1, &["resume", &before[0].to_string()]);
        assert!(refusal.contains("is being replaced"), "{refusal}");
        drop(clients);
        whole_again(host, agent, &expected);
    });
}

#[test]
fn a_successor_that_was_not_ready_is_ended_and_its_predecessor_stays() {
    Host::with_python(|host| {
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        fs::write(&gate, "").unwrap();
        let gated = format!("gate={}", gate.display());
        let start = |args: &[&str]| {
            run(host, &[&["--ready", "notify"], args].concat(), &[&gated, "notify"])
        };
        let agent = start(&[]);
        let before = host.workers(None);
        close(&gate);
        agent.signal(Signal::HUP);
        wait_until("a successor", || host.workers(Some("starting")).len() == 1);
        agent.kill();
        fs::remove_file(&gate).unwrap();
        fs::write(&gate, "").unwrap();
        whole_again(host, start(&["--takeover"]), &before);
    });
}

#[test]
fn one_that_was_taken_back_has_its_whole_time_when_its_turn_comes_again() {
    // A second until its successor counts as ready, and two that it may take itself.
    const WHOLE: Duration = Duration::from_secs(1 + 2);
    Host::with_python(|host| {
        let mut running = run(host, &["--drain-timeout", "2s"], &[]);
        let before = host.workers(None);
        let mut clients = [0; 2].map(|_| Client::connect(running.address()).unwrap());
        let _pids = clients.each_mut().map(|client| client.ask().unwrap());
        running.signal(Signal::HUP);
        wait_until("a drain", || host.workers(Some("draining")) == before[..1]);
        let successor = host.workers(Some("live")).into_iter().find(|pid| !before.contains(pid));
        send(successor.unwrap(), Signal::KILL);
        running.wait_for("its predecessor serves on");
        let again = Instant::now();
        running.signal(Signal::HUP);
        wait_until_gone(&watch(before[0]), "the predecessor");
        assert!(again.elapsed() >= WHOLE, "told to end after {:?}", again.elapsed());
        running.stop();
    });
}

/// Puts a FIFO, which nobody writes to, in place of a file.
fn close(gate: &Path) {
    fs::remove_file(gate).unwrap();
    fifo(gate);
}
