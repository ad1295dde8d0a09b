//! What is known of all groups of a service at one moment, and what each of its workers has in all of them.
//! Its JSON form is documented in docs/reference.md and stable.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    group::Protocol,
    service::ServiceName,
    snapshot::{MemberInfo, MemberState, Snapshot},
};

/// A service at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceSnapshot {
    /// Its name.
    pub service: ServiceName,
    /// Its workers, in the order of their slots.
    pub workers: Vec<WorkerInfo>,
    /// Its groups, by name.
    pub groups: Vec<Snapshot>,
}

/// A worker: what its members in all groups have together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerInfo {
    /// The process.
    pub pid: u32,
    /// The groups that it is in.
    pub groups: Vec<String>,
    /// The states of its members, each once.
    pub states: Vec<MemberState>,
    /// Connections that it has open now; absent if they are not counted in one of its groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// Connections of those that wait to be accepted.
    pub waiting: u64,
    /// Times it was chosen for a new connection.
    pub selected: u64,
    /// Connections that moved to it out of the queue of a listener that closed.
    pub migrated: u64,
    /// Connections that were established with it, whoever chose it.
    pub established: u64,
    /// Times it was chosen for a datagram.
    pub datagrams: u64,
}

impl ServiceSnapshot {
    /// Joins the members of its groups by their processes. `waiting` is how many connections wait at the
    /// sockets of a process.
    pub fn of(service: ServiceName, groups: Vec<Snapshot>, waiting: &HashMap<u32, u64>) -> Self {
        let mut workers: Vec<WorkerInfo> = Vec::new();
        for group in &groups {
            for member in &group.members {
                let known = workers.iter().position(|worker| worker.pid == member.pid);
                let index = known.unwrap_or_else(|| {
                    workers.push(WorkerInfo::new(member.pid, waiting));
                    workers.len() - 1
                });
                workers[index].add(group, member);
            }
        }
        Self { service, workers, groups }
    }
}

/// All groups of a service as if they were one, with one member for each process, for the lines of an agent;
/// `None` of no group. If some groups are of TCP, those of UDP are left out: datagrams are no connections.
pub fn as_one_group(service: ServiceName, groups: &[&Snapshot]) -> Option<Snapshot> {
    let is_tcp = |group: &&&Snapshot| group.group.protocol == Protocol::Tcp;
    let mut shown: Vec<&Snapshot> = groups.iter().filter(is_tcp).copied().collect();
    if shown.is_empty() {
        shown = groups.to_vec();
    }
    let (first, others) = shown.split_first()?;
    let mut whole = Snapshot { members: Vec::new(), left: Vec::new(), ..(*first).clone() };
    let addresses =
        shown.iter().map(|group| format!("{}/{}", first.group.protocol, group.group.address));
    let addresses = addresses.collect::<Vec<_>>().join(" ");
    let (_, address) = addresses.split_once('/')?;
    (whole.group.name, whole.group.address) = (service.to_string(), address.to_owned());
    for group in others {
        whole.fallback = whole.fallback.saturating_add(group.fallback);
        whole.errors = whole.errors.saturating_add(group.errors);
        whole.unasked = whole.unasked.saturating_add(group.unasked);
        whole.displaced = whole.displaced.saturating_add(group.displaced);
        whole.counted &= group.counted;
        if let (Some(whole), Some(its)) = (&mut whole.flows, group.flows) {
            whole.room = whole.room.saturating_add(its.room);
            whole.bytes = whole.bytes.saturating_add(its.bytes);
            whole.evicted = whole.evicted.saturating_add(its.evicted);
            whole.evicted_unassured = whole.evicted_unassured.saturating_add(its.evicted_unassured);
        }
    }
    for group in shown {
        group.members.iter().for_each(|member| add_to(&mut whole.members, member));
        group.left.iter().for_each(|member| add_to(&mut whole.left, member));
    }
    Some(whole)
}

fn add_to(members: &mut Vec<MemberInfo>, member: &MemberInfo) {
    let Some(known) = members.iter_mut().find(|known| known.pid == member.pid) else {
        members.push(member.clone());
        return;
    };
    known.tally += member.tally;
    let sum = |one: Option<u64>, other: Option<u64>| Some(one?.saturating_add(other?));
    (known.open, known.busy) = (sum(known.open, member.open), sum(known.busy, member.busy));
    if known.state == MemberState::Live {
        known.state = member.state;
    }
}

impl WorkerInfo {
    fn new(pid: u32, waiting: &HashMap<u32, u64>) -> Self {
        Self {
            pid,
            groups: Vec::new(),
            states: Vec::new(),
            open: Some(0),
            waiting: waiting.get(&pid).copied().unwrap_or_default(),
            selected: 0,
            migrated: 0,
            established: 0,
            datagrams: 0,
        }
    }

    fn add(&mut self, group: &Snapshot, member: &MemberInfo) {
        if !self.groups.contains(&group.group.name) {
            self.groups.push(group.group.name.clone());
        }
        if !self.states.contains(&member.state) {
            self.states.push(member.state);
        }
        let tally = member.tally;
        if group.group.protocol == Protocol::Udp {
            self.datagrams = self.datagrams.saturating_add(tally.selected);
            return;
        }
        self.open = self.open.zip(member.open).map(|(open, more)| open.saturating_add(more));
        self.selected = self.selected.saturating_add(tally.selected);
        self.migrated = self.migrated.saturating_add(tally.migrated);
        self.established = self.established.saturating_add(tally.established);
    }

    /// Connections as shown to people: see [`Snapshot::connections`].
    pub fn connections(&self) -> u64 {
        if self.open.is_some() { self.established } else { self.selected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot as example;

    /// Two groups of TCP and one of UDP; the first worker is in all, the others are in one.
    pub fn service() -> ServiceSnapshot {
        let group = |name: &str, protocol| {
            let mut group = example();
            group.group.name = name.to_owned();
            group.group.protocol = protocol;
            group
        };
        let mut groups = [
            group("tcp-80", Protocol::Tcp),
            group("tcp-443", Protocol::Tcp),
            group("udp-443", Protocol::Udp),
        ];
        for (open, member) in (3..).zip(groups[..2].iter_mut().flat_map(|g| &mut g.members)) {
            member.open = Some(open);
        }
        groups[1].members.truncate(1);
        groups[2].members.truncate(1);
        let waiting = HashMap::from([(4711, 2)]);
        ServiceSnapshot::of("web".parse().unwrap(), groups.into(), &waiting)
    }

    #[test]
    fn a_worker_has_what_its_members_have_in_all_groups() {
        let workers = service().workers;
        let pids: Vec<u32> = workers.iter().map(|worker| worker.pid).collect();
        assert_eq!(pids, [4711, 4712, 4720]);
        let worker = &workers[0];
        assert_eq!(worker.groups, ["tcp-80", "tcp-443", "udp-443"]);
        assert_eq!((worker.open, worker.waiting), (Some(3 + 6), 2));
        assert_eq!((worker.selected, worker.established, worker.datagrams), (1000, 1000, 500));
        assert_eq!(workers[2].states, [MemberState::Draining]);
        assert_eq!((workers[1].open, workers[1].selected), (Some(4), 300));
    }

    #[test]
    fn what_is_not_counted_in_one_group_is_not_known_of_the_worker() {
        let mut groups = service().groups;
        groups[1].members[0].open = None;
        let again = ServiceSnapshot::of("web".parse().unwrap(), groups, &HashMap::new()).workers;
        assert_eq!((again[0].open, again[1].open), (None, Some(4)));
    }

    #[test]
    fn as_one_group_it_has_a_member_for_each_process_and_tcp_alone() {
        let groups = service().groups;
        let groups: Vec<&Snapshot> = groups.iter().collect();
        let whole = as_one_group("web".parse().unwrap(), &groups).unwrap();
        assert_eq!(whole.group.name, "web");
        assert_eq!(whole.group.address, "127.0.0.1:8080 tcp/127.0.0.1:8080");
        let selected = |member: &MemberInfo| (member.pid, member.tally.selected, member.open);
        let members: Vec<_> = whole.members.iter().map(selected).collect();
        assert_eq!(members, [(4711, 1000, Some(9)), (4712, 300, Some(4)), (4720, 150, Some(5))]);
        let udp = as_one_group("dns".parse().unwrap(), &groups[2..]).unwrap();
        assert_eq!((udp.unit(), udp.members.len()), ("flows", 1));
        assert_eq!(as_one_group("web".parse().unwrap(), &[]), None);
    }

    #[test]
    fn the_json_form_is_the_documented_one() {
        let json = serde_json::to_value(service()).unwrap();
        let expected = serde_json::json!({
            "pid": 4711, "groups": ["tcp-80", "tcp-443", "udp-443"], "states": ["live"], "open": 9,
            "waiting": 2, "selected": 1000, "migrated": 0, "established": 1000, "datagrams": 500,
        });
        assert_eq!((&json["service"], &json["workers"][0]), (&"web".into(), &expected));
        assert_eq!(json["groups"][0]["group"]["name"], "tcp-80");
    }
}
