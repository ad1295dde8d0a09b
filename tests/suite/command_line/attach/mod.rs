//! `balancer attach` steers servers that run already and know nothing of it, and gives them back.

mod heirs;
mod naming;
mod partly;
mod refusals;
mod steering;
mod taking;
mod watching;

use std::collections::BTreeMap;

use harness::{Host, servers::Server};
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:8000";

/// Each of these servers as often.
fn each(servers: &[Server], count: usize) -> BTreeMap<u32, usize> {
    servers.iter().map(|server| (server.pid(), count)).collect()
}

/// How often each member was chosen, by slot.
fn selected(status: &Value) -> Vec<u64> {
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member["selected"].as_u64().unwrap()).collect()
}

/// The workers, by slot.
fn workers(host: &Host) -> Vec<u64> {
    let status = host.status();
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member["pid"].as_u64().unwrap()).collect()
}
