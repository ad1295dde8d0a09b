//! `balancer compare ADDRESS`: policies in turn on a server that runs. What was in force before it is in force
//! after it, however it ends; and a worker that is slow is named.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use balancer_steering::{group::Protocol, policy::Policy};
use harness::{
    Host, TestGroup,
    load::Load,
    needs_kernel,
    running::{send, wait_until, wait_until_gone, watch},
    servers::{Server, ask},
};
use rustix::process::Signal;
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:8080";

/// Two servers that are steered by hash.
fn steered(host: &Host) -> Option<Vec<Server>> {
    if !needs_kernel(6, 3) {
        return None;
    }
    let servers = Server::several(2, "tcp", ADDRESS);
    host.succeed(&["attach", ADDRESS, "--policy", "hash", "--once"]);
    Some(servers)
}

fn policy(host: &Host) -> Value {
    host.status()["policy"].clone()
}

/// A comparison of so many short blocks, at once.
fn comparison(host: &Host, blocks: &str) -> Command {
    let args = ["compare", ADDRESS, "--policies", "kernel,round-robin", "--blocks", blocks];
    let mut command = host.balancer(&args);
    command.args(["--block-time", "300ms", "--max-worse", "1000x", "--yes"]);
    command.stdin(Stdio::null());
    command
}

/// Whether an experiment is noted.
fn is_noted(host: &Host) -> bool {
    host.pins("tcp-8080").join("experiment/BEFORE").exists()
}

/// Waits until it has switched the policy.
fn wait_for_a_switch(host: &Host) {
    wait_until("an experiment", || is_noted(host));
    // The kernel's own hash is the first block.
    wait_until("a switch", || !host.pins("tcp-8080").exists() || policy(host) != "hash");
}

#[test]
fn a_live_server_is_not_touched_unasked() {
    Host::with_python(|host| {
        let Some(_servers) = steered(host) else { return };
        let mut command = host.balancer(&["compare", ADDRESS]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains("--yes") && complaint.contains("hash would be in force again"));
        assert!(!is_noted(host));
        assert_eq!(policy(host), "hash");
    });
}

#[test]
fn at_its_end_what_was_in_force_is_in_force_again_and_no_request_was_lost() {
    Host::with_python(|host| {
        let Some(_servers) = steered(host) else { return };
        let load = Load::start(|| {
            ask(ADDRESS, 1);
            Ok(())
        });
        let output = comparison(host, "6").output().unwrap();
        load.end();
        let [said, complaint] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{complaint}");
        assert!(said.contains("round-robin: ") && said.contains("6 rounds"), "{said}");
        assert_eq!(policy(host), "hash");
        assert!(!is_noted(host));
    });
}

#[test]
fn answers_on_connections_that_outlast_all_blocks_tell_nothing_of_a_policy() {
    Host::with(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1]);
        let client = group.connect(1).remove(0);
        let worker: TcpStream = group.accept_all(0).remove(0).into();
        worker.set_nonblocking(false).unwrap();
        let connection = Arc::new(Mutex::new((client, worker)));
        let load = Load::start(move || {
            let (client, worker) = &mut *connection.lock().unwrap();
            client.write_all(b"some")?;
            worker.read_exact(&mut [0; 4])?;
            worker.write_all(b"some")?;
            client.read_exact(&mut [0; 4])
        });
        let address = group.address.to_string();
        let args = ["compare", &address, "--policies", "hash,random", "--blocks", "1"];
        let said = host.succeed(&[&args[..], &["--block-time", "600ms", "--yes"]].concat());
        load.end();
        for policy in ["hash", "random"] {
            let says = |line: &str, what| line.starts_with(policy) && line.contains(what);
            assert!(said.lines().any(|line| says(line, ": nothing can be told")), "{said}");
            let carried = format!("carry-over: {policy}");
            assert!(said.lines().any(|line| line.starts_with(&carried)), "{said}");
        }
    });
}

#[test]
fn after_a_kill_the_next_command_puts_back_what_was_in_force() {
    Host::with_python(|host| {
        let Some(_servers) = steered(host) else { return };
        let mut comparing = comparison(host, "1000").stderr(Stdio::null()).spawn().unwrap();
        wait_for_a_switch(host);
        let process = watch(comparing.id());
        send(comparing.id(), Signal::KILL);
        wait_until_gone(&process, "the comparison");
        comparing.wait().unwrap();
        let output = host.balancer(&["status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["policy"], "hash");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains("hash is in force again"), "{complaint}");
        assert!(!is_noted(host));
    });
}

#[test]
fn a_signal_ends_it_in_order() {
    Host::with_python(|host| {
        let Some(_servers) = steered(host) else { return };
        let mut comparing =
            comparison(host, "1000").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for_a_switch(host);
        send(comparing.id(), Signal::INT);
        assert_eq!(comparing.wait().unwrap().code(), Some(130));
        assert!(!is_noted(host));
        assert_eq!(policy(host), "hash");
    });
}

#[test]
fn a_policy_that_the_operator_sets_meanwhile_stays() {
    Host::with_python(|host| {
        let Some(_servers) = steered(host) else { return };
        let mut comparing =
            comparison(host, "1000").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        wait_for_a_switch(host);
        host.succeed(&["policy", "random"]);
        let said = BufReader::new(comparing.stdout.take().unwrap());
        let said: Vec<String> = said.lines().map_while(Result::ok).collect();
        assert_eq!(comparing.wait().unwrap().code(), Some(1));
        assert!(said.iter().any(|line| line.contains("another command changed the policy")));
        assert_eq!(policy(host), "random");
    });
}
