//! `balancer compare` on what no balancer steers yet: servers are steered for that time, and given back; a
//! command is run for that time, and ended. Both also if `compare` is killed.

use std::{
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use harness::{
    Host, needs_kernel,
    running::{send, wait_until, wait_until_gone, watch},
    servers::Server,
};
use rustix::process::Signal;
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:8080";

/// So many requests, each over a connection of its own.
const LOAD: &str = "python3 -c '
import sys, urllib.request
for _ in range(40):
    urllib.request.urlopen(\"http://{address}/\", timeout=60).read()'";

fn example() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python/server.py");
    path.to_str().unwrap().to_owned()
}

/// A comparison of two policies in short blocks, with these arguments before those of the command.
fn comparison(host: &Host, arguments: &[&str], command: &[&str]) -> Command {
    let mut balancer = host.balancer(&["compare", "--policies", "kernel,round-robin", "--yes"]);
    balancer.args(["--block-time", "300ms", "--max-worse", "1000x"]).args(arguments);
    if !command.is_empty() {
        balancer.arg("--").args(command);
    }
    balancer.stdin(Stdio::null());
    balancer
}

/// Waits until a comparison goes on, and is kept from its end by a kill.
fn kill_when_it_steers(host: &Host, mut comparing: Child) {
    wait_until("an experiment", || host.pins("tcp-8080").join("experiment/BEFORE").exists());
    let process = watch(comparing.id());
    send(comparing.id(), Signal::KILL);
    wait_until_gone(&process, "the comparison");
    comparing.wait().unwrap();
}

#[test]
fn servers_that_are_not_steered_are_for_that_time_and_given_back() {
    Host::with_python(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let _servers = Server::several(2, "tcp", ADDRESS);
        let comparing =
            comparison(host, &[ADDRESS, "--blocks", "6"], &[]).stdout(Stdio::piped()).spawn();
        let comparing = comparing.unwrap();
        wait_until("a group", || host.pins("tcp-8080").exists());
        assert_eq!(host.workers(None).len(), 2);
        let output = comparing.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains("6 rounds"), "{said}");
        assert!(host.is_clean());
    });
}

#[test]
fn it_says_that_they_would_be_steered_before_it_is_allowed_to() {
    Host::with_python(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let _servers = Server::several(2, "tcp", ADDRESS);
        let parts = ["tcp/127.0.0.1:8080 (2 sockets), which is not steered", "given back", "--yes"];
        host.refuse(2, &["compare", ADDRESS], &parts);
    });
}

#[test]
fn after_a_kill_they_are_given_back_by_nobody_else() {
    Host::with_python(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let _servers = Server::several(2, "tcp", ADDRESS);
        let comparing = comparison(host, &[ADDRESS, "--blocks", "1000"], &[]).spawn().unwrap();
        kill_when_it_steers(host, comparing);
        wait_until("the servers given back", || host.is_clean());
    });
}

#[test]
fn a_port_that_nobody_serves_is_refused() {
    Host::with_python(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let args = ["compare", ADDRESS, "--yes"];
        host.refuse(1, &args, &["no group of sockets with SO_REUSEPORT serves 127.0.0.1:8080"]);
    });
}

#[test]
fn a_command_is_run_compared_on_under_a_load_and_ended() {
    Host::with_python(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("own.json");
        let json = file.to_str().unwrap();
        let args = ["--workers", "2", "--blocks", "2", "--load", LOAD, "--json", json];
        let output = comparison(host, &args, &[&example()]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said} {:?}", String::from_utf8(output.stderr));
        let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let address = report["address"].as_str().unwrap();
        assert!(report["load"].as_str().unwrap().contains(&format!("http://{address}/")));
        for policy in report["policies"].as_array().unwrap() {
            // Two blocks of forty requests.
            assert_eq!(policy["answers"], 80, "{report}");
        }
        assert!(host.is_clean());
        assert!(TcpStream::connect(address).is_err(), "the command still serves");
    });
}

#[test]
fn after_a_kill_the_command_ends() {
    Host::with_python(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let args = [ADDRESS, "--workers", "2", "--blocks", "1000", "--load", LOAD];
        let comparing = comparison(host, &args, &[&example()]).spawn().unwrap();
        kill_when_it_steers(host, comparing);
        wait_until("the end of the command", || TcpStream::connect(ADDRESS).is_err());
        wait_until("what was pinned to be gone", || host.is_clean());
    });
}

#[test]
fn a_command_that_does_not_start_is_an_error_that_says_why() {
    Host::with(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let args = ["compare", "--load", "true", "--", "/nowhere/server"];
        host.refuse(1, &args, &["/nowhere/server", "what would have steered the server has ended"]);
    });
}

#[test]
fn a_command_without_a_load_is_refused() {
    Host::with(|host| {
        host.refuse(2, &["compare", "--", "server"], &["--load"]);
        host.refuse(2, &["compare", ":80", "--workers", "3"], &["--workers goes with COMMAND"]);
    });
}
