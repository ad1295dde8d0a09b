//! What is counted and shown is what happened: one choice per connection, full and stalled queues left
//! out, a program that was replaced, connections that migrate.

mod displaced;
mod early_looks;
mod full_queues;
mod layouts;
mod looked_up;
mod machine;
mod migration;
mod nobody_accepts;
mod tproxy;

use balancer_common::record::SlotState;
use balancer_steering::{group::Protocol, options::PolicyOptions, policy::Policy, snapshot::Tally};
use harness::{Host, TestGroup, group::POLICIES};
use serde_json::Value;

/// Those for groups at an address: all over IPv4; over IPv6, where only the packet differs, one of each
/// kind.
fn policies_at(address: &str) -> Vec<Policy> {
    if address == IPV4 {
        return POLICIES.to_vec();
    }
    vec![Policy::RoundRobin, Policy::Sticky, Policy::LeastConnections]
}

const IPV4: &str = "127.0.0.1:0";
const IPV6: &str = "[::1]:0";

/// A TCP group at an address, one member for each weight.
fn group(
    host: &Host,
    address: &str,
    policy: Policy,
    options: PolicyOptions,
    weights: &[u16],
) -> TestGroup {
    TestGroup::bound(host, Protocol::Tcp, address.parse().unwrap(), policy, options, weights)
}

/// Leaves the first members in the table, and no other.
fn drain_all_but(group: &mut TestGroup, members: usize) {
    for slot in 0..group.sockets.len() {
        let state = if slot < members { SlotState::Live } else { SlotState::Draining };
        group.steering.set_state(u32::try_from(slot).unwrap(), state).unwrap();
    }
    group.steering.publish().unwrap();
}

/// What each slot was given.
fn tallies(group: &TestGroup) -> Vec<Tally> {
    group.snapshot().members.iter().map(|member| member.tally).collect()
}

/// Connections that were established with each slot.
fn established(group: &TestGroup) -> Vec<u64> {
    tallies(group).iter().map(|tally| tally.established).collect()
}

/// Choices left to the kernel, and errors.
fn misses(group: &TestGroup) -> (u64, u64) {
    let snapshot = group.snapshot();
    (snapshot.fallback, snapshot.errors)
}

/// What came to each slot between two readings.
fn since(before: &[u64], after: &[u64]) -> Vec<u64> {
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

/// A number of each member, by slot, as `status --json` has it.
fn of_members(status: &Value, field: &str) -> Vec<u64> {
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member[field].as_u64().unwrap()).collect()
}
