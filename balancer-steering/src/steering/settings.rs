//! What the programs of a group are told when they are loaded, and cannot change: constants to the verifier.

use balancer_common::{load::Source, settings::Settings};

use crate::{
    group::{GroupSpec, Protocol},
    options::{can_look, stall_ticks},
};

/// What the programs of a group are told.
pub fn settings(group: &GroupSpec, cpus: u32) -> Settings {
    let GroupSpec { policy, options, counted, flows, .. } = *group;
    let looks = policy.steers() && can_look().is_ok();
    let udp = group.identity.protocol == Protocol::Udp;
    // Whether a TCP worker accepts shows by what is counted.
    let stalls = looks && (udp || counted);
    let timeouts = flows.map(|flows| flows.timeouts());
    Settings {
        stall_ticks: if stalls { stall_ticks(options) } else { 0 },
        source: match policy.source(options.load) {
            // What its worker has elsewhere counts too.
            Source::Connections if group.service.is_some() && !udp => Source::ServiceConnections,
            Source::Requests if group.service.is_some() => Source::ServiceRequests,
            source => source,
        } as u32,
        udp: udp.into(),
        counted: counted.into(),
        looks: looks.into(),
        group: group.index,
        cpus,
        max_share: options.max_share.map_or(0, |share| share.percent().into()),
        flow_sets: flows.map_or(0, |flows| flows.sets),
        flow_assured: timeouts.map_or(0, |timeouts| timeouts.assured),
        flow_unassured: timeouts.map_or(0, |timeouts| timeouts.unassured),
        reserved: 0,
        flow_seed: flows.map_or(0, |flows| flows.seed),
    }
}
