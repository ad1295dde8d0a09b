//! A verb that names a service acts on all of its groups.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use harness::{
    Host,
    running::{PATIENCE, wait_until},
    servers::Server,
    sockets::{tcp, udp},
    there,
};
use serde_json::Value;

use super::{Nginx, selected, service, states, workers};

/// A connection that stays open, and the PID of the worker that has answered on it.
fn ask(address: &str) -> (u32, TcpStream) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    let mut octets = [0; 512];
    while !answer.contains("\r\n\r\n") || answer.ends_with("\r\n\r\n") {
        let length = stream.read(&mut octets).unwrap();
        answer.push_str(std::str::from_utf8(&octets[..length]).unwrap());
    }
    let (_, pid) = answer.rsplit_once("\r\n\r\n").unwrap();
    (pid.parse().unwrap(), stream)
}

/// nginx, steered as a service.
fn steered(host: &Host) -> (Nginx, harness::Running) {
    let nginx = Nginx::start(host);
    let mut running = host.start(&["attach", ":8000", ":8443", "--service", "web"]);
    running.wait_for("steering ");
    (nginx, running)
}

#[test]
fn a_drain_by_pid_is_in_all_groups_and_returns_when_all_are_empty() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let (_nginx, running) = steered(host);
        // One connection of each worker in each group.
        let mut clients: Vec<_> = Nginx::ADDRESSES
            .iter()
            .flat_map(|(address, _)| [(); 3].map(|()| ask(address)))
            .collect();
        let drained = clients[0].0;
        let (mut own, _others): (Vec<_>, Vec<_>) =
            clients.drain(..).partition(|(pid, _)| *pid == drained);
        assert_eq!(own.len(), 3);
        let pid = drained.to_string();
        let args = ["drain", "--service", "web", &pid, "--wait", "--idle-grace", "off"];
        let mut draining = host.start(&args);
        for (_, name) in Nginx::ADDRESSES {
            draining.line(&format!("{name}: PID {pid} has connections left: 1 open"));
        }
        for (_, name) in Nginx::ADDRESSES {
            drop(own.remove(0));
            draining.wait_for(&format!("{name}: PID {pid} has no connection left"));
        }
        assert!(draining.ended().status.success());
        // What comes now goes to the other two, in each group.
        for (address, name) in Nginx::ADDRESSES {
            let _clients = [(); 4].map(|()| ask(address));
            assert_eq!(selected(host, name)[&drained], 1, "{name}");
            assert_eq!(states(host, name).iter().filter(|state| *state == "draining").count(), 1);
        }
        host.succeed(&["resume", "--service", "web", &pid]);
        for (_, name) in Nginx::ADDRESSES {
            assert_eq!(states(host, name), ["live"; 3]);
        }
        running.stop();
    });
}

#[test]
fn the_workers_of_a_reloaded_nginx_are_known_in_all_groups() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let (nginx, running) = steered(host);
        let before = workers(host);
        assert_eq!(before.len(), 3);
        nginx.run(&["-s", "reload"]);
        let is_new = |worker: &Value| {
            let pid = worker["pid"].as_u64().unwrap();
            let groups = worker["groups"].as_array().unwrap().len();
            groups == 3 && before.iter().all(|before| u64::from(*before) != pid)
        };
        wait_until("three others, each in three groups", || {
            let now = service(host);
            let now = now["workers"].as_array().unwrap();
            now.len() == 3 && now.iter().all(is_new)
        });
        let pid = workers(host)[0].to_string();
        // Nothing else is steered, so no service need be named.
        let said = host.succeed(&["drain", &pid]);
        for (_, name) in Nginx::ADDRESSES {
            assert!(said.contains(&format!("{name}: PID {pid} is draining\n")), "{said}");
            assert_eq!(states(host, name).iter().filter(|state| *state == "draining").count(), 1);
        }
        running.stop();
    });
}

#[test]
fn a_policy_and_weights_are_those_of_all_groups() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let (_nginx, running) = steered(host);
        let said = host.succeed(&["policy", "weighted", "--service", "web"]);
        assert_eq!(said.lines().count(), 3, "{said}");
        let all = workers(host);
        host.succeed(&["weight", "--service", "web", &format!("{}=4", all[0])]);
        for (address, name) in Nginx::ADDRESSES {
            let _clients = [(); 12].map(|()| TcpStream::connect(address).unwrap());
            assert_eq!(selected(host, name), [(all[0], 8), (all[1], 2), (all[2], 2)].into());
        }
        running.stop();
    });
}

#[test]
fn a_worker_that_is_in_some_groups_only_is_meant_there() {
    Host::with_python(|host| {
        let everywhere = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443"), udp("127.0.0.1:8000")];
        let here = Server::start("tcp", "127.0.0.1:8443");
        host.succeed(&["attach", ":8000", ":8443", "udp/:8000", "--service", "web", "--once"]);
        let pid = here.pid().to_string();
        let said = host.succeed(&["drain", "--service", "web", &pid]);
        assert_eq!(said, format!("tcp-8443: PID {pid} is draining\n"));
        let (own, theirs) = (std::process::id(), here.pid());
        let service = service(host);
        let groups = |pid: u32| {
            let workers = service["workers"].as_array().unwrap();
            workers.iter().find(|worker| worker["pid"] == pid).unwrap()["groups"].clone()
        };
        assert_eq!(groups(own), serde_json::json!(["tcp-8000", "tcp-8443", "udp-8000"]));
        assert_eq!(groups(theirs), serde_json::json!(["tcp-8443"]));
        host.succeed(&["detach"]);
        assert!(host.is_clean());
        drop(everywhere);
    });
}

#[test]
fn status_shows_what_each_worker_has_in_all_groups_and_then_each_group() {
    Host::with(|host| {
        let sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        host.succeed(&["attach", ":8000", ":8443", "--service", "web", "--once"]);
        let clients = |port| [(); 2].map(|()| TcpStream::connect(("127.0.0.1", port)).unwrap());
        let _clients = [clients(8000), clients(8443)];
        let _accepted = sockets[0].accept().unwrap();
        let text = host.succeed(&["status"]);
        let pid = std::process::id();
        let row = text.lines().find(|line| line.contains(&pid.to_string())).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[1..], ["live", "2", "4", "3", "4", "100.0", "%"], "{text}");
        let titles = ["service web  2 groups", "tcp-8000  tcp/", "tcp-8443  tcp/"];
        assert!(titles.iter().all(|title| text.contains(title)), "{text}");
        let worker = &service(host)["workers"][0];
        assert_eq!([&worker["open"], &worker["waiting"], &worker["selected"]], [4, 3, 4]);
        host.succeed(&["detach", "--service", "web"]);
        assert!(host.is_clean());
    });
}

#[test]
fn an_agent_ends_when_its_service_is_given_back() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443"), tcp("127.0.0.1:9000")];
        host.succeed(&["attach", ":9000", "--once"]);
        let mut running = host.start(&["attach", ":8000", ":8443", "--service", "web"]);
        running.wait_for("steering ");
        host.succeed(&["detach", "--service", "web"]);
        assert!(running.ended().status.success());
        assert_eq!(super::names(host), super::set(&["tcp-9000"]));
        host.succeed(&["detach"]);
        assert!(host.is_clean());
    });
}

#[test]
fn metrics_and_top_know_the_service() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443"), tcp("127.0.0.1:9000")];
        host.succeed(&["attach", ":9000", "--once"]);
        host.succeed(&["attach", ":8000", ":8443", "--service", "web", "--once"]);
        let metrics = host.succeed(&["metrics"]);
        let infos = metrics.lines().filter(|line| line.starts_with("balancer_group_info"));
        let of_it = infos.filter(|line| line.contains("service=\"web\"")).count();
        assert_eq!(of_it, 2, "{metrics}");
        let metrics = host.succeed(&["metrics", "--service", "web"]);
        assert!(!metrics.contains("tcp-9000") && metrics.contains("tcp-8443"), "{metrics}");
        let args = ["top", "--json", "--count", "1", "--interval", "100ms", "--service", "web"];
        let lines = host.succeed(&args);
        assert_eq!(lines.lines().count(), 2, "{lines}");
        host.succeed(&["detach", "--service", "web"]);
        host.succeed(&["detach"]);
        assert!(host.is_clean());
    });
}
