//! The metrics: their names, what they mean, and how each is made of what was read. Pure.
//!
//! Every family is described in every scrape, also if it has no series now. docs/metrics.md lists them.

use std::{fmt::Result, sync::Arc};

use balancer_steering::{
    bounds::{BoundedCounts, BoundedRequests, Bounds},
    group::Protocol,
    snapshot::MemberState,
};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{
    Format,
    collector::{GroupReading, MemberReading, Reading},
    pattern::Pattern,
};

/// A metric that is one number; `value` gives none where it has no series.
struct Figure<F> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: F,
}

type OfGroup = fn(&GroupReading) -> Option<u64>;
type OfMember = fn(&GroupReading, &MemberReading) -> Option<u64>;

const fn counter<F: Copy>(name: &'static str, help: &'static str, value: F) -> Figure<F> {
    Figure { name, help, kind: MetricType::Counter, value }
}

const fn gauge<F: Copy>(name: &'static str, help: &'static str, value: F) -> Figure<F> {
    Figure { name, help, kind: MetricType::Gauge, value }
}

const OF_GROUP: [Figure<OfGroup>; 8] = [
    counter(
        "balancer_fallbacks",
        "Choices left to the kernel's hash, because no member could take the connection.",
        |group| Some(group.snapshot.fallback),
    ),
    counter("balancer_errors", "Choices that failed by a defect of balancer.", |group| {
        Some(group.snapshot.errors)
    }),
    counter(
        "balancer_displaced_programs",
        "How often the agent found another program in force, or none, and put its own back.",
        |group| Some(group.snapshot.displaced.into()),
    ),
    gauge(
        "balancer_agent_up",
        "Whether the group's agent is running; absent if it is to have none.",
        |group| group.agent.map(u64::from),
    ),
    gauge("balancer_observed", "Whether the group's requests are tracked.", |group| {
        Some(group.observed.into())
    }),
    gauge("balancer_flow_limit", "How many flows there is room for.", |group| {
        Some(group.snapshot.flows?.room.into())
    }),
    counter(
        "balancer_evicted_flows",
        "Flows that were cut short for want of room though they went on.",
        |group| Some(group.snapshot.flows?.evicted),
    ),
    counter(
        "balancer_evicted_unassured_flows",
        "Flows whose clients had not sent again after an answer, and that gave their place to new ones.",
        |group| Some(group.snapshot.flows?.evicted_unassured),
    ),
];

const OF_MEMBER: [Figure<OfMember>; 14] = [
    counter("balancer_choices", "Times the program chose the member.", |_, member| {
        Some(member.info.tally.selected)
    }),
    counter(
        "balancer_connections",
        "Connections that were established with the member, whoever chose it.",
        |group, member| tcp(group, group.snapshot.counted.then_some(member.info.tally.established)),
    ),
    counter(
        "balancer_flows",
        "Flows that began with the member or moved there, whoever chose it.",
        |group, member| group.snapshot.flows.map(|_| member.info.tally.established),
    ),
    counter(
        "balancer_migrations",
        "Connections that moved to the member out of the queue of a listener that closed; and flows of a socket \
         that closed.",
        |_, member| Some(member.info.tally.migrated),
    ),
    gauge("balancer_open_connections", "Connections that are open.", |group, member| {
        tcp(group, member.info.open)
    }),
    gauge("balancer_open_flows", "Flows that have not ended.", |group, member| {
        group.snapshot.flows.and(member.info.open)
    }),
    gauge(
        "balancer_busy_connections",
        "Open connections that owe an answer, or on which nothing has come yet.",
        |_, member| member.info.busy,
    ),
    gauge("balancer_idle_connections", "Open connections that owe no answer.", |_, member| {
        Some(member.info.open?.saturating_sub(member.info.busy?))
    }),
    gauge(
        "balancer_requests_in_flight",
        "Connections that owe an answer: requests that are under way.",
        |_, member| member.requests.as_ref().map(|requests| requests.owing),
    ),
    gauge("balancer_queue_length", "Connections that wait to be accepted.", |group, member| {
        waiting(group, member, Protocol::Tcp)
    }),
    gauge("balancer_queue_limit", "How many connections may wait to be accepted.", |_, member| {
        member.backlog?.limit.map(u64::from)
    }),
    gauge("balancer_receive_queue_bytes", "What waits at a UDP socket.", |group, member| {
        waiting(group, member, Protocol::Udp)
    }),
    gauge("balancer_weight", "The member's share relative to the others.", |_, member| {
        Some(member.info.weight.into())
    }),
    gauge(
        "balancer_reported_load",
        "The load that the worker reports, in its own unit.",
        |_, member| member.info.load,
    ),
];

/// What only TCP has.
fn tcp(group: &GroupReading, figure: Option<u64>) -> Option<u64> {
    figure.filter(|_| group.snapshot.group.protocol == Protocol::Tcp)
}

fn waiting(group: &GroupReading, member: &MemberReading, of: Protocol) -> Option<u64> {
    let backlog = member.backlog.filter(|_| group.snapshot.group.protocol == of)?;
    Some(backlog.waiting.into())
}

/// A histogram of seconds.
struct Times {
    name: &'static str,
    help: &'static str,
    counts: fn(&BoundedRequests) -> &BoundedCounts,
}

const TIMES: [Times; 3] = [
    Times {
        name: "balancer_request_duration",
        help: "From the arrival of a request to the first octet of its answer.",
        counts: |requests| &requests.to_answer,
    },
    Times {
        name: "balancer_read_delay",
        help: "From the arrival of data until the worker read it.",
        counts: |requests| &requests.to_read,
    },
    Times {
        name: "balancer_first_answer",
        help: "From the end of the handshake to the first octet of the first answer.",
        counts: |requests| &requests.to_first,
    },
];

/// The states that a member can be in, by the names that `status` has for them.
const STATES: [MemberState; 5] = [
    MemberState::Starting,
    MemberState::Live,
    MemberState::Stalled,
    MemberState::Draining,
    MemberState::Dead,
];

/// Writes all metrics.
pub(super) fn write(
    text: &mut String,
    format: Format,
    reading: &Arc<Reading>,
    bounds: &Bounds,
) -> Result {
    let of = Arc::clone(reading);
    format.encode(text, move |encoder| figures(&of.groups, encoder))?;
    for times in &TIMES {
        let pattern = Pattern::of(format, times.name, times.help, bounds)?;
        text.push_str(pattern.head());
        for (group, member) in members(&reading.groups) {
            if let Some(requests) = &member.requests {
                let labels = (group.name(), member.info.slot);
                pattern.write(text, labels, (times.counts)(requests))?;
            }
        }
    }
    let of = Arc::clone(reading);
    format.encode(text, move |encoder| own(&of, encoder))?;
    format.finish(text)
}

fn figures(groups: &[GroupReading], encoder: &mut DescriptorEncoder<'_>) -> Result {
    infos(groups, encoder)?;
    for figure in &OF_GROUP {
        let mut family = encoder.encode_descriptor(figure.name, figure.help, None, figure.kind)?;
        for group in groups {
            let Some(value) = (figure.value)(group) else { continue };
            let labels = [("group", group.name())];
            number(&mut family.encode_family(&labels)?, figure.kind, value)?;
        }
    }
    for figure in &OF_MEMBER {
        let mut family = encoder.encode_descriptor(figure.name, figure.help, None, figure.kind)?;
        for (group, member) in members(groups) {
            let Some(value) = (figure.value)(group, member) else { continue };
            let labels = labels(group, member);
            number(&mut family.encode_family(&labels)?, figure.kind, value)?;
        }
    }
    states(groups, encoder)
}

fn infos(groups: &[GroupReading], encoder: &mut DescriptorEncoder<'_>) -> Result {
    let mut family = info(encoder, "balancer_build", "The balancer that tells all this.")?;
    family.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
    let mut family = info(encoder, "balancer_group", "What the group is, and its policy.")?;
    for group in groups {
        let of = &group.snapshot.group;
        let service = of.service.map(|service| ("service", service.to_string()));
        let labels = [
            ("group", group.name().to_owned()),
            ("protocol", of.protocol.to_string()),
            ("address", of.address.clone()),
            ("policy", group.snapshot.policy.name().to_owned()),
        ];
        family.encode_info(&labels.into_iter().chain(service).collect::<Vec<_>>())?;
    }
    let help = "The process that accepts for the member.";
    let mut family = info(encoder, "balancer_member", help)?;
    for (group, member) in members(groups) {
        let process = ([("pid", member.info.pid)], [("command", member.command.as_str())]);
        family.encode_info(&(labels(group, member), process))?;
    }
    Ok(())
}

fn info<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> std::result::Result<MetricEncoder<'a>, std::fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Info)
}

/// One series for each state, 1 for the one that the member is in.
fn states(groups: &[GroupReading], encoder: &mut DescriptorEncoder<'_>) -> Result {
    let help = "1 for the state that the member is in, 0 for the others.";
    let mut family = encoder.encode_descriptor("balancer_state", help, None, MetricType::Gauge)?;
    for (group, member) in members(groups) {
        for state in STATES {
            let is_it = member.info.state.name() == state.name();
            let labels = (labels(group, member), [("state", state.name())]);
            family.encode_family(&labels)?.encode_gauge(&u64::from(is_it))?;
        }
    }
    Ok(())
}

/// What is told of the telling. Last, so that its time is nearly all.
fn own(reading: &Reading, encoder: &mut DescriptorEncoder<'_>) -> Result {
    let (name, help) = ("balancer_collection_errors", "Groups that could not be read.");
    let mut errors = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    number(&mut errors, MetricType::Counter, reading.errors)?;
    let (name, help) = ("balancer_scrape_duration", "How long this reading took.");
    let unit = Unit::Seconds;
    let mut took = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
    took.encode_gauge(&reading.began.elapsed().as_secs_f64())
}

fn number(series: &mut MetricEncoder<'_>, kind: MetricType, value: u64) -> Result {
    match kind {
        MetricType::Counter => series.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => series.encode_gauge(&value),
    }
}

fn members(groups: &[GroupReading]) -> impl Iterator<Item = (&GroupReading, &MemberReading)> {
    groups.iter().flat_map(|group| group.members.iter().map(move |member| (group, member)))
}

fn labels<'a>(group: &'a GroupReading, member: &MemberReading) -> impl EncodeLabelSet + use<'a> {
    ([("group", group.name())], [("slot", member.info.slot)])
}

impl GroupReading {
    fn name(&self) -> &str {
        &self.snapshot.group.name
    }
}
