//! What two readings of a group tell together: rates, and times of what was answered in between. Pure.

use std::time::Duration;

use balancer_steering::{
    policy::Policy,
    requests::{Histogram, Requests},
    snapshot::{MemberInfo, MemberState},
    who::Who,
};
use serde::{Serialize, Serializer};

use super::reading::GroupReading;
use crate::render::policy::{policy_line, policy_of};

/// A group over an interval.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What it serves: protocol and address.
    pub address: String,
    /// The policy in force, with its options.
    pub policy: String,
    /// Seconds that rates and times are of; `None` of the first reading.
    pub interval: Option<f64>,
    /// Choices left to the kernel's hash.
    pub fallback: u64,
    /// Choices that failed.
    pub errors: u64,
    /// Its members, by slot.
    pub members: Vec<Member>,
    /// The policies that it can be switched to, each with the options in force, as they are typed.
    #[serde(skip)]
    pub policies: Vec<(Policy, String)>,
}

/// A member over an interval; what is not known is `None`.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// Place in the socket array.
    pub slot: u32,
    /// Its worker.
    pub pid: u32,
    /// Its weight.
    pub weight: u16,
    /// Whether it gets connections.
    pub state: MemberState,
    /// Connections that are open.
    pub open: Option<u64>,
    /// Of these, those that owe nothing.
    pub idle: Option<u64>,
    /// Of these, those that owe an answer.
    pub in_flight: Option<u64>,
    /// Connections (UDP: datagrams) a second.
    pub connections_per_second: Option<f64>,
    /// Answers a second.
    pub requests_per_second: Option<f64>,
    /// Median time to answer.
    #[serde(serialize_with = "seconds")]
    pub p50: Option<Duration>,
    /// What one answer in a hundred took longer than.
    #[serde(serialize_with = "seconds")]
    pub p99: Option<Duration>,
    /// The same of the time until the worker read.
    #[serde(serialize_with = "seconds")]
    pub read_p99: Option<Duration>,
    /// The times to answer, for a picture.
    #[serde(skip)]
    pub to_answer: Option<Histogram>,
    /// The times until the worker read, for a picture.
    #[serde(skip)]
    pub to_read: Option<Histogram>,
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

impl Group {
    /// How a command names a member: by its PID, unless that has several of the sockets.
    pub fn who(&self, member: &Member) -> Who {
        match self.members.iter().filter(|other| other.pid == member.pid).count() {
            1 => Who::Pid(member.pid),
            _ => Who::Slot(member.slot),
        }
    }

    /// From the reading before, if there is one, to this.
    pub fn between(earlier: Option<&GroupReading>, now: &GroupReading) -> Self {
        let interval = earlier.map(|earlier| now.at.duration_since(earlier.at).as_secs_f64());
        let snapshot = &now.snapshot;
        let since = earlier.zip(interval.filter(|seconds| *seconds > 0.0));
        let member = |info: &MemberInfo| member(info, since, now);
        Self {
            name: snapshot.group.name.clone(),
            address: format!("{}/{}", snapshot.group.protocol, snapshot.group.address),
            policy: policy_of(snapshot),
            interval,
            fallback: snapshot.fallback,
            errors: snapshot.errors,
            members: snapshot.members.iter().map(member).collect(),
            policies: now
                .policies
                .iter()
                .map(|&policy| (policy, policy_line(policy, snapshot.options)))
                .collect(),
        }
    }
}

fn member(info: &MemberInfo, since: Option<(&GroupReading, f64)>, now: &GroupReading) -> Member {
    let given =
        |reading: &GroupReading, info: &MemberInfo| reading.snapshot.connections(info.tally);
    let rate = since.and_then(|(earlier, seconds)| {
        let before =
            earlier.snapshot.members.iter().find(|m| (m.slot, m.pid) == (info.slot, info.pid))?;
        Some(given(now, info).checked_sub(given(earlier, before))? as f64 / seconds)
    });
    let requests = requests_of(now, info.slot);
    let times = since.and_then(|(earlier, seconds)| {
        // Another tenant has counts of its own, and a tracker that was started again counts from 0.
        let (before, now) = (requests_of(earlier, info.slot)?, requests?);
        let same = before.tenant == now.tenant && before.answered() <= now.answered();
        let between =
            || (now.to_answer.since(&before.to_answer), now.to_read.since(&before.to_read));
        same.then(between).map(|(answer, read)| (answer, read, seconds))
    });
    let (to_answer, to_read, seconds) = match times {
        None => (None, None, None),
        Some((answer, read, seconds)) => (Some(answer), Some(read), Some(seconds)),
    };
    let quantile =
        |times: &Option<Histogram>, share| times.as_ref().and_then(|times| times.quantile(share));
    Member {
        slot: info.slot,
        pid: info.pid,
        weight: info.weight,
        state: info.state,
        open: info.open,
        idle: info.open.zip(info.busy).map(|(open, busy)| open.saturating_sub(busy)),
        in_flight: requests.map(|requests| requests.owing),
        connections_per_second: rate,
        requests_per_second: to_answer
            .as_ref()
            .zip(seconds)
            .map(|(answer, seconds)| answer.count() as f64 / seconds),
        p50: quantile(&to_answer, 0.5),
        p99: quantile(&to_answer, 0.99),
        read_p99: quantile(&to_read, 0.99),
        to_answer,
        to_read,
    }
}

fn requests_of(reading: &GroupReading, slot: u32) -> Option<&Requests> {
    reading.requests.as_ref()?.iter().find(|requests| requests.slot == slot)
}

#[cfg(test)]
pub mod tests {
    use std::time::Instant;

    use balancer_steering::testing::snapshot as example;

    use super::*;

    /// Two readings a second apart, of three members of which the first has answered in between.
    pub fn readings() -> (GroupReading, GroupReading) {
        let at = Instant::now();
        let requests = |answers: u32| {
            let of = |slot, count: u32| {
                let mut requests = Requests { slot, tenant: 7, owing: 2, ..Requests::default() };
                for _ in 0..count {
                    requests.to_answer.record(Duration::from_millis(20));
                    requests.to_read.record(Duration::from_micros(50));
                }
                requests
            };
            Some(vec![of(0, answers), of(1, 1), of(3, 0)])
        };
        let mut snapshot = example();
        for member in &mut snapshot.members {
            (member.open, member.busy) = (Some(9), Some(4));
        }
        let policies = vec![Policy::RoundRobin, Policy::Weighted];
        let earlier = GroupReading {
            at,
            snapshot: snapshot.clone(),
            requests: requests(1),
            policies: policies.clone(),
        };
        snapshot.members[0].tally.established += 30;
        snapshot.members[0].tally.selected += 30;
        let at = at + Duration::from_secs(1);
        (earlier, GroupReading { at, snapshot, requests: requests(11), policies })
    }

    #[test]
    fn rates_and_times_are_of_what_came_between_two_readings() {
        let (earlier, now) = readings();
        let group = Group::between(Some(&earlier), &now);
        let first = &group.members[0];
        assert_eq!(
            (first.connections_per_second, first.requests_per_second),
            (Some(30.0), Some(10.0))
        );
        assert_eq!((first.open, first.idle, first.in_flight), (Some(9), Some(5), Some(2)));
        let p99 = first.p99.unwrap().as_secs_f64();
        assert!((p99 / 0.02 - 1.0).abs() < 0.02, "{p99}");
        // Nothing was answered there, so there is no time.
        let second = &group.members[1];
        assert_eq!((second.requests_per_second, second.p50), (Some(0.0), None));
    }

    #[test]
    fn of_one_reading_alone_there_are_neither_rates_nor_times() {
        let (_, now) = readings();
        let first = &Group::between(None, &now).members[0];
        assert_eq!(
            (first.connections_per_second, first.requests_per_second, first.p50),
            (None, None, None)
        );
        assert_eq!(first.in_flight, Some(2));
    }

    #[test]
    fn another_tenant_of_a_slot_has_no_times_until_the_next_reading() {
        let (earlier, mut now) = readings();
        now.requests.as_mut().unwrap()[0].tenant = 8;
        assert_eq!(Group::between(Some(&earlier), &now).members[0].requests_per_second, None);
    }

    #[test]
    fn what_a_tracker_started_again_has_counted_is_not_taken_for_a_rate() {
        let (earlier, now) = readings();
        let group = Group::between(
            Some(&GroupReading { at: earlier.at, ..now.clone() }),
            &GroupReading { at: now.at, ..earlier },
        );
        assert_eq!(group.members[0].requests_per_second, None);
    }

    #[test]
    fn where_requests_are_not_tracked_they_are_not_known() {
        let (earlier, mut now) = readings();
        now.requests = None;
        let first = &Group::between(Some(&earlier), &now).members[0];
        assert_eq!((first.in_flight, first.requests_per_second), (None, None));
        assert_eq!(first.connections_per_second, Some(30.0));
    }

    #[test]
    fn a_member_is_named_by_its_pid_unless_that_has_several() {
        let (_, now) = readings();
        let mut group = Group::between(None, &now);
        let [first, second] =
            [&group.members[0], &group.members[1]].map(|member| group.who(member));
        assert_eq!(
            (first, second),
            (Who::Pid(group.members[0].pid), Who::Pid(group.members[1].pid))
        );
        group.members[1].pid = group.members[0].pid;
        assert_eq!(group.who(&group.members[1]), Who::Slot(group.members[1].slot));
    }
}
