//! `cpu`: a connection goes to the worker pinned to the CPU that received it, which on loopback is the
//! client's own.

use std::net::SocketAddr;

use balancer_steering::affinity;
use harness::{
    Answer, Host,
    client::{by_slot, requests},
    running::send,
    servers::{Server, ask},
    tools::skip,
};
use rustix::{
    process::{Pid, Signal},
    thread::sched_setaffinity,
};

const REQUESTS: usize = 24;

/// Requests from a thread that is pinned to a CPU.
fn ask_from(cpu: usize, address: SocketAddr) -> Vec<Answer> {
    let client = std::thread::spawn(move || {
        affinity::pin_to(cpu).unwrap();
        requests(address, REQUESTS)
    });
    client.join().unwrap()
}

fn pin(pid: u32, cpu: usize) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    sched_setaffinity(pid, &affinity::set_of(cpu)).unwrap();
}

#[test]
fn each_cpus_connections_go_to_the_worker_pinned_to_it_and_to_its_successor() {
    Host::with(|host| {
        let cpus = affinity::cpus().unwrap();
        let workers = cpus.len().to_string();
        let mut running = host.run(&["--pin", "--policy", "cpu", "--workers", &workers]);
        for round in 1..3 {
            for &cpu in &cpus {
                for answer in ask_from(cpu, running.address()) {
                    assert_eq!(affinity::only_cpu(answer.pid), u32::try_from(cpu).ok());
                }
            }
            let status = host.status();
            let members = status["members"].as_array().unwrap();
            // The successor counts from nothing.
            let mut selected: Vec<_> = members.iter().map(|m| m["selected"].clone()).collect();
            if round == 2 {
                assert_eq!(selected.pop(), Some(REQUESTS.into()));
            }
            assert!(selected.iter().all(|count| *count == round * REQUESTS), "{status}");
            assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
            if round == 1 {
                send(running.workers()[0], Signal::KILL);
                running.wait_for("is back");
            }
        }
        let ended = running.stop();
        assert!(!ended.stderr.contains("pinned"), "{}", ended.stderr);
    });
}

#[test]
fn workers_of_one_cpu_take_turns_and_other_cpus_go_to_all() {
    Host::with(|host| {
        let cpus = affinity::cpus().unwrap();
        let running = host.run(&["--pin", "--policy", "cpu", "--weights", "3,1,3,1"]);
        // All to the first CPU; by hand, as a server may do that pins itself.
        running.workers().iter().for_each(|&pid| pin(pid, cpus[0]));
        host.succeed(&["policy", "cpu"]);
        for &cpu in &cpus {
            let counts = by_slot(&ask_from(cpu, running.address())).into_values();
            assert_eq!(counts.collect::<Vec<_>>(), [9, 3, 9, 3], "CPU {cpu}");
        }
        running.stop();
    });
}

#[test]
fn where_nobody_is_pinned_all_take_turns_and_it_is_said_what_to_do() {
    Host::with(|host| {
        let cpus = affinity::cpus().unwrap();
        if cpus.len() < 2 {
            return skip("with one CPU, everybody is pinned to it");
        }
        let running = host.run(&["--policy", "cpu", "--workers", "2"]);
        let counts = by_slot(&ask_from(cpus[0], running.address()));
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [REQUESTS / 2, REQUESTS / 2]);
        let again = host.output(&["policy", "cpu"]);
        let ended = running.stop();
        for stderr in [ended.stderr, String::from_utf8(again.stderr).unwrap()] {
            assert_eq!(stderr.matches("balancer run --pin").count(), 1, "{stderr}");
        }
    });
}

#[test]
fn servers_that_pinned_themselves_are_steered_by_it_as_they_are() {
    const ADDRESS: &str = "127.0.0.1:8080";
    Host::with(|host| {
        let cpus = affinity::cpus().unwrap();
        let servers = Server::several(cpus.len(), "tcp", ADDRESS);
        cpus.iter().zip(&servers).for_each(|(&cpu, server)| pin(server.pid(), cpu));
        let attached = host.attach(&[ADDRESS, "--policy", "cpu"]);
        for (&cpu, server) in cpus.iter().zip(&servers) {
            let client = std::thread::spawn(move || {
                affinity::pin_to(cpu).unwrap();
                ask(ADDRESS, REQUESTS)
            });
            assert_eq!(client.join().unwrap(), [(server.pid(), REQUESTS)].into());
        }
        attached.stop();
    });
}
