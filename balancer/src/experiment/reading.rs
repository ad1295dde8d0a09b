//! What the kernel has counted of a group at one moment, and what came between two of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use balancer_lab::live::{
    block::{Block, Part},
    plan::Turn,
};
use balancer_steering::{requests::Requests, snapshot::Snapshot, steering::Steering};

use super::overflows;

/// What was counted by a moment.
pub struct Reading {
    snapshot: Snapshot,
    requests: Vec<Requests>,
    overflows: Option<u64>,
}

impl Reading {
    /// Reads everything.
    pub fn take(steering: &Steering) -> Result<Self> {
        let (snapshot, requests) = (steering.snapshot()?, requests(steering)?);
        let overflows = snapshot.members.iter().find_map(|member| overflows::of(member.pid));
        Ok(Self { snapshot, requests, overflows })
    }

    /// What came from this moment to a later one; without times and what was open before.
    pub fn until(&self, later: &Self, turn: Turn) -> Block {
        let part = |now: &Requests| {
            // A member that came between the two was counted from 0.
            let none = Requests::default();
            let earlier =
                self.requests.iter().find(|r| (r.slot, r.tenant) == (now.slot, now.tenant));
            let earlier = earlier.unwrap_or(&none);
            let established = |snapshot: &Snapshot| {
                let member = snapshot.members.iter().find(|member| member.slot == now.slot);
                member.map_or(0, |member| member.tally.established)
            };
            let member = later.snapshot.members.iter().find(|member| member.slot == now.slot);
            let to_answer = now.apart_to_answer.since(&earlier.apart_to_answer);
            Part {
                slot: now.slot,
                pid: member.map_or(0, |member| member.pid),
                connections: established(&later.snapshot)
                    .saturating_sub(established(&self.snapshot)),
                in_flight: 0.0,
                carried_to_answer: now.to_answer.since(&earlier.to_answer).since(&to_answer),
                to_read: now.apart_to_read.since(&earlier.apart_to_read),
                to_answer,
            }
        };
        let overflows =
            later.overflows.zip(self.overflows).map(|(now, then)| now.saturating_sub(then));
        Block {
            round: turn.round,
            policy: turn.policy,
            seconds: 0.0,
            carried_over: 0,
            fallback: later.snapshot.fallback.saturating_sub(self.snapshot.fallback),
            errors: later.snapshot.errors.saturating_sub(self.snapshot.errors),
            overflows,
            members: later.requests.iter().map(part).collect(),
            generator: None,
        }
    }
}

/// Connections of a group that are open now.
pub fn open(steering: &Steering) -> Result<u64> {
    Ok(steering.snapshot()?.members.iter().filter_map(|member| member.open).sum())
}

/// Requests in flight, looked at again and again.
#[derive(Default)]
pub struct Sampled {
    sums: BTreeMap<u32, u64>,
    count: u64,
}

impl Sampled {
    /// Looks.
    pub fn add(&mut self, steering: &Steering) -> Result<()> {
        for requests in requests(steering)? {
            *self.sums.entry(requests.slot).or_default() += requests.owing;
        }
        self.count += 1;
        Ok(())
    }

    /// Notes the means.
    pub fn note(&self, block: &mut Block) {
        for part in &mut block.members {
            let sum = self.sums.get(&part.slot).copied().unwrap_or_default();
            part.in_flight = sum as f64 / self.count.max(1) as f64;
        }
    }
}

fn requests(steering: &Steering) -> Result<Vec<Requests>> {
    steering.requests()?.context("the request tracker was taken off; compare again")
}
