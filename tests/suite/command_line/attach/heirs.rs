//! Sockets that outlive their workers: what was said of a worker ends with it, and its successor is
//! known by every command.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use harness::{
    Host,
    running::{send, wait_until, wait_until_gone, watch},
    servers::{Server, ask, ask_udp},
    there,
};
use rustix::process::Signal;

use super::ADDRESS;

/// How often each worker has answered, by PID.
fn answers(kind: &str, address: &str, count: usize) -> BTreeMap<u32, usize> {
    if kind == "udp" { ask_udp(address, count) } else { ask(address, count) }
}

/// Kills a worker, and waits for another in its slot; the other.
fn replace(host: &Host, worker: u32) -> u32 {
    let workers = host.workers(None);
    let slot = workers.iter().position(|pid| *pid == worker).unwrap();
    let process = watch(worker);
    send(worker, Signal::KILL);
    wait_until_gone(&process, "a worker");
    wait_until("another worker to be shown", || host.workers(None)[slot] != worker);
    host.workers(None)[slot]
}

#[test]
fn the_successor_of_a_drained_worker_on_its_socket_is_live_at_once() {
    for (kind, address) in
        [("tcp", ADDRESS), ("tcp", "[::1]:8000"), ("udp", ADDRESS), ("udp", "[::1]:8000")]
    {
        Host::with_python(move |host| {
            let _server = Server::prefork(kind, address, 3, 0);
            let udp = if kind == "udp" { &["--udp"][..] } else { &[] };
            let mut running = host.attach(&[&[address], udp].concat());
            let drained = host.workers(None)[1];
            host.succeed(&["drain", &drained.to_string()]);
            send(drained, Signal::KILL);
            let line = running.wait_for("accepts in slot 1");
            assert!(line.contains(&format!("in place of the drained PID {drained}")), "{line}");
            let workers = host.workers(Some("live"));
            assert_eq!(workers.len(), 3);
            let each = workers.into_iter().map(|pid| (pid, 10)).collect();
            assert_eq!(answers(kind, address, 30), each);
            running.stop();
        });
    }
}

#[test]
fn a_slot_stays_drained_while_only_the_parent_of_all_workers_has_its_socket() {
    Host::with_python(|host| {
        let _server = Server::prefork("tcp", ADDRESS, 3, 6);
        let mut running = host.attach(&[ADDRESS]);
        let drained = host.workers(None)[0];
        host.succeed(&["drain", &drained.to_string()]);
        send(drained, Signal::KILL);
        // Each of these is a look.
        for _ in 0..3 {
            running.wait_for("round-robin connections=");
        }
        assert_eq!(host.workers(Some("draining")), [drained]);
        running.wait_for("accepts in slot 0");
        assert_eq!(host.workers(Some("live")).len(), 3);
        running.stop();
    });
}

#[test]
fn a_drained_worker_stays_drained_as_long_as_it_has_its_socket() {
    Host::with_python(|host| {
        let _server = Server::prefork("tcp", ADDRESS, 3, 0);
        let mut running = host.attach(&[ADDRESS]);
        let workers = host.workers(None);
        host.succeed(&["drain", &workers[0].to_string()]);
        let other = replace(host, workers[1]);
        for _ in 0..3 {
            running.wait_for("round-robin connections=");
        }
        assert_eq!(host.workers(Some("draining")), [workers[0]]);
        assert_eq!(host.workers(Some("live")), [other, workers[2]]);
        running.stop();
    });
}

#[test]
fn a_successor_on_the_same_socket_starts_slowly() {
    Host::with_python(|host| {
        let _server = Server::prefork("tcp", ADDRESS, 3, 0);
        let running = host.attach(&[ADDRESS, "--slow-start", "5h"]);
        let first = host.workers(None)[0];
        assert_eq!(ask(ADDRESS, 30)[&first], 10);
        let heir = replace(host, first);
        // Shown at once, and recorded by the agent's next look.
        wait_until("two turns of 42", || ask(ADDRESS, 20 + 20 + 2)[&heir] == 2);
        running.stop();
    });
}

#[test]
fn commands_know_the_workers_of_today_though_nobody_watches() {
    Host::with_python(|host| {
        let _server = Server::prefork("tcp", ADDRESS, 3, 0);
        host.succeed(&["attach", ADDRESS, "--once", "--policy", "weighted"]);
        let workers = host.workers(None);

        let heir = replace(host, workers[0]);
        host.succeed(&["weight", &format!("{heir}=4")]);
        assert_eq!(ask(ADDRESS, 60)[&heir], 40);
        let message = host.fail(1, &["weight", &format!("{}=2", workers[0])]);
        assert!(
            message
                .contains(&format!("not a worker of the group tcp-8000; its workers are {heir}"))
        );

        let heir = replace(host, workers[1]);
        host.succeed(&["drain", &heir.to_string()]);
        assert_eq!(host.workers(Some("draining")), [heir]);
        // No command has recorded it yet, so it gets nothing, and is shown so.
        let next = replace(host, heir);
        assert_eq!(host.workers(Some("draining")), [next]);
        let said = host.succeed(&["resume", &next.to_string()]);
        let line = format!("PID {next} accepts in slot 1 in place of the drained PID {heir}");
        assert!(said.contains(&line) && said.contains(&format!("PID {next} is live")), "{said}");
        // Whichever PID a command names, all successors are live by then.
        host.succeed(&["drain", &next.to_string()]);
        let last = replace(host, next);
        host.succeed(&["weight", &format!("{}=1", workers[2])]);
        assert_eq!(host.workers(Some("live")).len(), 3);
        assert!(ask(ADDRESS, 12).contains_key(&last));
        host.succeed(&["detach"]);
    });
}

/// nginx with three workers, each with a socket of its own on both families.
struct Nginx(tempfile::TempDir);

impl Nginx {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let configuration = "\
worker_processes 3; pid pid; error_log error.log;
events {}
http { access_log off; server {
    listen 127.0.0.1:8000 reuseport; listen [::1]:8000 reuseport;
    location / { return 200; }
} }
";
        fs::write(directory.path().join("nginx.conf"), configuration).unwrap();
        let nginx = Self(directory);
        nginx.run(&[]);
        nginx
    }

    fn run(&self, args: &[&str]) {
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(self.0.path()).args(["-c", "nginx.conf"]).args(args);
        assert!(nginx.output().unwrap().status.success(), "nginx {args:?}");
    }
}

#[test]
fn the_workers_of_a_reloaded_nginx_are_known_though_nobody_watches() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let nginx = Nginx::start();
        let workers = |group: &str| -> Vec<u64> {
            let text = host.succeed(&["status", "--json", "--group", group]);
            let status: serde_json::Value = serde_json::from_str(&text).unwrap();
            let members = status["members"].as_array().unwrap();
            members.iter().map(|member| member["pid"].as_u64().unwrap()).collect()
        };
        for (address, group) in [(ADDRESS, "tcp-8000"), ("[::1]:8000", "tcp-8000-0-0-0-0-0-0-0-1")]
        {
            // Until its workers are there, the master is all that has the sockets.
            let mut before = Vec::new();
            wait_until("a worker for each socket", || {
                host.succeed(&["attach", address, "--once"]);
                before = workers(group);
                let each = before.iter().collect::<BTreeSet<_>>().len() == before.len();
                each || host.succeed(&["detach", "--group", group]).is_empty()
            });
            host.succeed(&["drain", &before[0].to_string(), "--group", group]);
            nginx.run(&["-s", "reload"]);
            wait_until("all workers to be others", || {
                workers(group).iter().all(|worker| !before.contains(worker))
            });
            let new = workers(group);
            let said = host.succeed(&["drain", &new[1].to_string(), "--group", group]);
            assert!(said.contains(&format!("PID {} accepts in slot 0", new[0])), "{said}");
        }
        nginx.run(&["-s", "stop"]);
    });
}
