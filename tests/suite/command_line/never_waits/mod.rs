//! What no agent waits for: those who read what it prints, other commands, and what runs out. Each time a
//! worker dies meanwhile, is replaced, and the agent ends in order when it is told to.

mod descriptors;
mod given_back;
mod locks;
mod unread;

use std::{
    collections::HashSet,
    process::{Child, Command, ExitStatus},
};

use harness::{
    Host,
    host::balancer,
    running::{send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;

/// The real command, with what it complains of among what it prints.
fn with_errors(host: &Host, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.env("BALANCER_BPFFS", host.bpffs()).args(["-c", "exec \"$0\" \"$@\" 2>&1"]);
    command.arg(balancer()).args(args);
    command
}

/// The PIDs of live members; none while there is no group.
fn live(host: &Host) -> HashSet<u32> {
    let output = host.output(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let members = status["members"].as_array().into_iter().flatten();
    let live = members.filter(|member| member["state"] == "live");
    live.map(|member| u32::try_from(member["pid"].as_u64().unwrap()).unwrap()).collect()
}

fn wait_until_live(host: &Host, count: usize) {
    wait_until("workers", || live(host).len() == count);
}

/// Kills one of the workers and waits until it has a successor.
fn a_worker_is_replaced(host: &Host) {
    let before = live(host);
    let killed = *before.iter().next().unwrap();
    send(killed, Signal::KILL);
    wait_until("a successor", || {
        let now = live(host);
        !now.contains(&killed) && now.len() == before.len()
    });
}

/// Stops an agent in order.
fn stop(host: &Host, agent: &mut Child) -> ExitStatus {
    let process = watch(agent.id());
    send(agent.id(), Signal::TERM);
    wait_until_gone(&process, "the agent");
    assert!(host.is_clean(), "something is left");
    agent.wait().unwrap()
}

/// The children of a process, those that are not reaped included.
fn children(parent: u32) -> Vec<u32> {
    let processes = procfs::process::all_processes().unwrap().flatten();
    let stats = processes.filter_map(|process| process.stat().ok());
    let own = stats.filter(|stat| u32::try_from(stat.ppid) == Ok(parent));
    own.map(|stat| u32::try_from(stat.pid).unwrap()).collect()
}
