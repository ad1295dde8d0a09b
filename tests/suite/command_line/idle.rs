//! Idle is not busy: connections that owe no answer hold neither a drain nor a reload up, once they have
//! been quiet for `--idle-grace`; a request that is under way does, however long it takes.

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use harness::{
    Host, Running,
    line::{Client, SERVER},
    running::{all_new, wait_until},
};

/// Of the server that answers lines.
fn run(host: &Host, workers: usize, args: &[&str]) -> Running {
    let workers = workers.to_string();
    let command = ["--", "python3", SERVER, "handed"];
    host.run(&[&["--workers", &workers], args, &command].concat())
}

/// Connections to each worker in turn, and who answered on them.
fn asked(running: &Running, count: usize) -> (Vec<Client>, Vec<u32>) {
    let mut clients = connected(running, count);
    let pids = clients.iter_mut().map(|client| client.ask().unwrap()).collect();
    (clients, pids)
}

fn connected(running: &Running, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(running.address()).unwrap()).collect()
}

fn drain<'a>(pid: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["drain", pid, "--wait"], args].concat()
}

#[test]
fn a_drain_ends_with_connections_that_are_idle_and_they_stay_open() {
    Host::with_python(|host| {
        let running = run(host, 2, &[]);
        let (mut clients, pids) = asked(&running, 4);
        let said = host.succeed(&drain(&pids[0].to_string(), &["--idle-grace", "100ms"]));
        assert!(said.contains("only idle connections left: 2, quiet for 100ms"), "{said}");
        assert!(clients.iter_mut().map(|client| client.ask().unwrap()).eq(pids));
        running.stop();
    });
}

#[test]
fn a_request_that_is_under_way_is_waited_for_beyond_the_grace() {
    Host::with_python(|host| {
        let running = run(host, 2, &[]);
        let mut clients = connected(&running, 2);
        clients[0].begin().unwrap();
        let pid = host.workers(None)[0].to_string();
        let grace = ["--idle-grace", "10ms"];
        let refusal = host.fail(1, &drain(&pid, &[&grace[..], &["--timeout", "500ms"]].concat()));
        assert!(refusal.contains("(1 open)"), "{refusal}");
        clients[0].ask().unwrap();
        host.succeed(&drain(&pid, &grace));
        running.stop();
    });
}

#[test]
fn a_second_request_on_a_connection_is_waited_for_as_the_first() {
    Host::with_python(|host| {
        let running = run(host, 2, &[]);
        let (mut clients, _) = asked(&running, 6);
        let pid = host.workers(None)[0].to_string();
        let grace = ["--idle-grace", "10ms"];
        // By then it is told apart from the answer to the first: the kernel's clock has ticked.
        host.succeed(&drain(&pid, &grace));
        clients[2].begin().unwrap();
        let refusal = host.fail(1, &drain(&pid, &[&grace[..], &["--timeout", "500ms"]].concat()));
        assert!(refusal.contains("(3 open, 1 of them busy)"), "{refusal}");
        clients[2].ask().unwrap();
        host.succeed(&drain(&pid, &grace));
        running.stop();
    });
}

#[test]
fn a_connection_that_is_used_again_and_again_is_not_idle() {
    Host::with_python(|host| {
        let running = run(host, 2, &[]);
        let (mut clients, pids) = asked(&running, 2);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    clients[0].ask().unwrap();
                }
            });
            let args = ["--idle-grace", "5s", "--timeout", "6s"];
            let refusal = host.fail(1, &drain(&pids[0].to_string(), &args));
            stop.store(true, Ordering::Relaxed);
            assert!(refusal.contains("1 open"), "{refusal}");
        });
        running.stop();
    });
}

#[test]
fn without_a_grace_a_drain_waits_for_idle_connections_too() {
    Host::with_python(|host| {
        let running = run(host, 2, &[]);
        let (_clients, pids) = asked(&running, 2);
        let args = ["--idle-grace", "off", "--timeout", "1s"];
        let refusal = host.fail(1, &drain(&pids[0].to_string(), &args));
        assert!(refusal.contains("(1 open, 0 of them busy)"), "{refusal}");
        running.stop();
    });
}

#[test]
fn a_reload_waits_for_requests_under_way_and_not_for_idle_connections() {
    const WORKERS: usize = 4;
    Host::with_python(|host| {
        let running = run(host, WORKERS, &["--idle-grace", "200ms", "--drain-timeout", "10m"]);
        let before = host.workers(None);
        let (_idle, _) = asked(&running, 50 * WORKERS);
        let mut busy = connected(&running, WORKERS);
        busy.iter_mut().for_each(|client| client.begin().unwrap());
        let args = ["reload", "--parallel", "4"];
        let mut reload = host.balancer(&args).stdout(Stdio::null()).spawn().unwrap();
        wait_until("all to drain", || host.workers(Some("draining")) == before);
        let answered: Vec<u32> = busy.iter_mut().map(|client| client.ask().unwrap()).collect();
        assert_eq!(answered, before);
        assert!(reload.wait().unwrap().success());
        all_new(&before, &host.workers(None));
        assert!(!running.stop().stderr.contains("connections left"));
    });
}

#[test]
fn a_reload_replaces_so_many_workers_at_a_time_and_no_more() {
    Host::with_python(|host| {
        let running = run(host, 4, &["--idle-grace", "10ms"]);
        let before = host.workers(None);
        let mut clients = connected(&running, 4);
        clients.iter_mut().for_each(|client| client.begin().unwrap());
        let args = ["reload", "--parallel", "2"];
        let mut reload = host.balancer(&args).stdout(Stdio::null()).spawn().unwrap();
        let draining = || host.workers(Some("draining"));
        wait_until("two to drain", || draining() == before[..2]);
        assert_eq!(clients[1].ask().unwrap(), before[1]);
        wait_until("the third", || draining() == [before[0], before[2]]);
        for at in [0, 2, 3] {
            assert_eq!(clients[at].ask().unwrap(), before[at]);
        }
        assert!(reload.wait().unwrap().success());
        all_new(&before, &host.workers(None));
        running.stop();
    });
}
