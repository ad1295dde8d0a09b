//! Workers and the supervisor live, die and stop without losing what can be kept.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use harness::{
    Host,
    client::{by_slot, connect, receive, request, requests},
    running::{send, wait_until_gone, watch},
};
use rustix::process::Signal;

/// The number after `name ` in a line.
fn number(line: &str, name: &str) -> u32 {
    let (_, rest) = line.split_once(name).unwrap();
    let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap()
}

#[test]
fn a_killed_worker_gets_nothing_more_and_comes_back_in_a_slot_of_its_own() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "3"]);
        requests(running.address(), 30);
        let victim = running.workers()[1];
        let process = watch(victim);
        send(victim, Signal::KILL);
        wait_until_gone(&process, "a worker");

        // At once: whether the supervisor knows already or not.
        let answers = requests(running.address(), 20);
        assert!(answers.iter().all(|answer| answer.pid != victim), "{answers:?}");

        let line = running.wait_for("is back as PID");
        let (successor, slot) = (number(&line, "PID"), number(&line, "slot"));
        assert_eq!(slot, 3, "{line}");
        let answers = requests(running.address(), 30);
        assert_eq!(answers.iter().filter(|answer| answer.pid == successor).count(), 10);
        assert_eq!(by_slot(&answers).into_values().collect::<Vec<_>>(), [10, 10, 10]);

        let status = host.status();
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        let ended = running.stop();
        assert!(ended.status.success());
        // The summary has all four, and nothing is lost of what the first one got.
        assert!(ended.stdout.contains("80 connections"), "{}", ended.stdout);
    });
}

#[test]
fn a_successor_has_its_predecessors_weight() {
    Host::with(|host| {
        let mut running = host.run(&["--weights", "1,1", "--policy", "weighted"]);
        let first = host.status()["members"][0]["pid"].as_u64().unwrap();
        host.succeed(&["weight", &format!("{first}=7")]);
        send(u32::try_from(first).unwrap(), Signal::KILL);
        running.wait_for("is back as PID");
        let answers = requests(running.address(), 80);
        assert_eq!(by_slot(&answers).into_iter().collect::<Vec<_>>(), [(1, 10), (2, 70)]);
        running.stop();
    });
}

#[test]
fn a_group_whose_workers_all_died_is_steered_again() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        // The kernel's group, and what is attached to it, ends with its last socket.
        for worker in running.workers() {
            send(*worker, Signal::KILL);
        }
        for _ in 0..2 {
            running.wait_for("is back as PID");
        }
        let answers = requests(running.address(), 40);
        assert_eq!(by_slot(&answers).into_values().collect::<Vec<_>>(), [20, 20]);
        assert_eq!(host.status()["fallback"], 0);
        running.stop();
    });
}

#[test]
fn connections_queued_at_a_killed_worker_are_served_by_the_others() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let victim = running.workers()[0];
        send(victim, Signal::STOP);
        let clients: Vec<TcpStream> =
            (0..20).map(|_| connect(running.address()).unwrap()).collect();
        send(victim, Signal::KILL);
        for client in clients {
            assert_ne!(receive(client).unwrap().pid, victim);
        }
        let migrated: u64 = host.status()["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| member["migrated"].as_u64().unwrap())
            .sum();
        assert_eq!(migrated, 10);
        running.stop();
    });
}

#[test]
fn stopping_serves_what_was_queued_and_leaves_nothing_behind() {
    Host::with(|host| {
        for signal in [Signal::INT, Signal::TERM] {
            let mut running = host.run(&["--workers", "2"]);
            for worker in running.workers() {
                send(*worker, Signal::STOP);
            }
            let clients: Vec<TcpStream> =
                (0..10).map(|_| connect(running.address()).unwrap()).collect();
            running.signal(signal);
            running.wait_for("stopping");
            for worker in running.workers() {
                send(*worker, Signal::CONT);
            }
            for client in clients {
                receive(client).unwrap();
            }
            let address = running.address();
            let ended = running.ended();
            assert!(ended.status.success(), "{ended:?}");
            assert!(
                ended.stdout.contains("CONNECTIONS") && ended.stdout.contains("10 connections")
            );
            assert!(host.is_clean());
            assert!(request(address).is_err(), "somebody still listens");
        }
    });
}

#[test]
fn stopping_finishes_a_request_in_flight() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "1"]);
        let mut client = TcpStream::connect(running.address()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        // Accepted, not merely queued: a second connection was answered after it.
        request(running.address()).unwrap();
        running.signal(Signal::TERM);
        running.wait_for("stopping");
        client.write_all(b"Host: test\r\n\r\n").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text:?}");
        assert!(running.ended().status.success());
    });
}

#[test]
fn a_client_that_is_done_sending_is_answered_all_the_same() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        // Often, so that one says so between the worker's reading and its answer.
        for _ in 0..1000 {
            let client = connect(running.address()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            receive(client).unwrap();
        }
        running.stop();
    });
}

#[test]
fn an_idle_connection_does_not_hold_up_stopping() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        let mut client = TcpStream::connect(running.address()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut first = [0; 1];
        client.read_exact(&mut first).unwrap();
        assert!(running.stop().status.success());
    });
}

#[test]
fn a_second_signal_stops_at_once() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        let workers: Vec<_> = running.workers().iter().map(|pid| watch(*pid)).collect();
        for worker in running.workers() {
            send(*worker, Signal::STOP);
        }
        running.signal(Signal::INT);
        running.wait_for("stopping");
        running.signal(Signal::INT);
        let ended = running.ended();
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stderr.contains("stopped at once"), "{ended:?}");
        for worker in &workers {
            wait_until_gone(worker, "a worker");
        }
        assert!(host.is_clean());
    });
}

#[test]
fn without_its_supervisor_a_group_is_steered_on_and_can_be_taken_down() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3"]);
        let (address, workers) = (running.address(), running.workers().to_vec());
        let (pid, listen) = (running.pid(), running.address().to_string());
        running.signal(Signal::KILL);
        running.ended();

        let answers = requests(address, 30);
        assert_eq!(by_slot(&answers).into_values().collect::<Vec<_>>(), [10, 10, 10]);
        let status = host.status();
        assert_eq!(status["members"].as_array().unwrap().len(), 3);
        host.succeed(&["policy", "hash"]);
        assert_eq!(request(address).unwrap().policy, "hash");

        let refusal = host.fail(1, &["run", "--listen", &listen]);
        let group = status["group"]["name"].as_str().unwrap();
        for part in
            [&listen, group, "hash", &format!("PID {pid}"), "--takeover", "balancer detach", "kill"]
        {
            assert!(refusal.contains(part), "no {part:?} in {refusal:?}");
        }
        for worker in &workers {
            assert!(refusal.contains(&worker.to_string()), "no {worker} in {refusal:?}");
        }

        // What it says to do works.
        host.succeed(&["detach", "--group", group]);
        assert!(host.is_clean());
        assert!(request(address).is_ok(), "the workers go on");
        for pid in workers {
            let process = watch(pid);
            send(pid, Signal::TERM);
            wait_until_gone(&process, "a worker");
        }
        assert!(host.run(&["--listen", &listen]).stop().status.success());
    });
}

#[test]
fn a_worker_that_dies_without_a_supervisor_is_shown_as_dead_and_skipped() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3"]);
        let (address, workers) = (running.address(), running.workers().to_vec());
        running.signal(Signal::KILL);
        running.ended();
        let process = watch(workers[0]);
        send(workers[0], Signal::KILL);
        wait_until_gone(&process, "a worker");

        assert_eq!(by_slot(&requests(address, 20)).into_values().collect::<Vec<_>>(), [10, 10]);
        let status = host.status();
        let states: Vec<(&str, u64)> = status["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| (m["state"].as_str().unwrap(), m["pid"].as_u64().unwrap()))
            .collect();
        for (state, pid) in states {
            let dead = pid == u64::from(workers[0]);
            assert_eq!(state, if dead { "dead" } else { "live" });
        }
        for worker in &workers[1..] {
            send(*worker, Signal::KILL);
        }
    });
}

#[test]
fn pins_of_workers_long_gone_are_cleared_away_by_the_next_run() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let (listen, workers) = (running.address().to_string(), running.workers().to_vec());
        running.signal(Signal::KILL);
        running.ended();
        for pid in workers {
            let process = watch(pid);
            send(pid, Signal::KILL);
            wait_until_gone(&process, "a worker");
        }
        let ended = host.run(&["--listen", &listen]).stop();
        assert!(ended.status.success());
        assert!(ended.stderr.contains("removing what is left"), "{ended:?}");
        assert!(host.is_clean());
    });
}

#[test]
fn no_process_but_the_worker_has_its_socket() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3"]);
        let sockets = |pid: u32| -> Vec<String> {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            fds.flatten()
                .filter_map(|fd| {
                    std::fs::read_link(fd.path()).ok()?.into_os_string().into_string().ok()
                })
                .filter(|target| target.starts_with("socket:"))
                .collect()
        };
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", running.pid())).unwrap();
        let listening = |pid: u32| {
            let inodes = sockets(pid);
            inodes
                .iter()
                .filter(|socket| {
                    let inode = socket.trim_start_matches("socket:[").trim_end_matches(']');
                    table.lines().any(|line| {
                        let fields: Vec<&str> = line.split_whitespace().collect();
                        fields.get(3) == Some(&"0A") && fields.get(9) == Some(&inode)
                    })
                })
                .count()
        };
        assert_eq!(listening(running.pid()), 0);
        for worker in running.workers() {
            assert_eq!(listening(*worker), 1);
        }
        running.stop();
    });
}
