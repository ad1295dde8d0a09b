//! One process with a socket for each of its threads: a member is named by its slot, and the process by its PID.

use harness::{
    Host,
    servers::{Server, ask},
};
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:8080";

/// Of each member by slot.
fn each(host: &Host, what: &str) -> Vec<Value> {
    let status = host.status();
    status["members"].as_array().unwrap().iter().map(|member| member[what].clone()).collect()
}

/// Steers the three threads of one server.
fn steered(host: &Host, policy: &str) -> Server {
    let server = Server::threads("tcp", ADDRESS, 3);
    host.succeed(&["attach", ADDRESS, "--policy", policy, "--once"]);
    assert_eq!(each(host, "pid"), [server.pid(); 3]);
    server
}

#[test]
fn threads_have_weights_of_their_own_and_get_exactly_that() {
    Host::with_python(|host| {
        let _server = steered(host, "weighted");
        let said = host.succeed(&["weight", "slot:0=5", "slot:1=3", "slot:2=2"]);
        assert!(said.contains("weight of slot 1 is 3"), "{said}");
        ask(ADDRESS, 100);
        assert_eq!(each(host, "selected"), [50, 30, 20]);
    });
}

#[test]
fn the_weight_of_a_process_is_that_of_all_its_threads() {
    Host::with_python(|host| {
        let server = steered(host, "weighted");
        host.succeed(&["weight", &format!("{}=7", server.pid())]);
        assert_eq!(each(host, "weight"), [7; 3]);
    });
}

#[test]
fn a_drain_of_one_thread_empties_that_thread_alone_and_is_undone_by_its_slot() {
    Host::with_python(|host| {
        let _server = steered(host, "round-robin");
        let said = host.succeed(&["drain", "slot:1", "--wait"]);
        assert!(said.contains("slot 1 has no connection left"), "{said}");
        assert_eq!(each(host, "state"), ["live", "draining", "live"]);
        ask(ADDRESS, 20);
        assert_eq!(each(host, "selected"), [10, 0, 10]);
        host.succeed(&["resume", "slot:1"]);
        ask(ADDRESS, 30);
        assert_eq!(each(host, "selected"), [20, 10, 20]);
    });
}

#[test]
fn the_last_thread_is_not_drained_and_what_could_be_done_is_said_by_slot() {
    Host::with_python(|host| {
        let server = steered(host, "round-robin");
        host.succeed(&["drain", "slot:0"]);
        let refusal = host.fail(1, &["drain", "slot:1", "slot:2"]);
        assert!(refusal.contains("slot 1, slot 2 cannot be drained"), "{refusal}");
        assert!(refusal.contains("resume --group tcp-8080"), "{refusal}");
        host.fail(1, &["drain", &server.pid().to_string()]);
        let refusal = host.fail(1, &["policy", "kernel"]);
        assert!(refusal.contains("balancer resume --group tcp-8080 slot:0"), "{refusal}");
        let refusal = host.fail(1, &["weight", "slot:7=2"]);
        assert!(refusal.contains("slot 7 is not a slot of the group tcp-8080"), "{refusal}");
    });
}
