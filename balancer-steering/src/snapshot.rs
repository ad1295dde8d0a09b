//! What is known of a group at one moment: the data behind `status`, the live view and the
//! summary. Its JSON form is documented in docs/reference.md and stable.

use serde::Serialize;

use crate::{
    group::Protocol,
    metric::Metric,
    options::{PolicyOptions, STALL, Share},
    policy::Policy,
    service::ServiceName,
};

/// A group at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Who it is.
    pub group: GroupInfo,
    /// How slots are chosen.
    pub policy: Policy,
    /// With what options.
    pub options: OptionsInfo,
    /// Its members, by slot.
    pub members: Vec<MemberInfo>,
    /// Choices left to the kernel's hash, because no slot of the table had a socket.
    pub fallback: u64,
    /// Choices that failed by a defect.
    pub errors: u64,
    /// Those that have left, as far as their slots were not given to others. They keep counting, so
    /// that the total never shrinks.
    #[serde(skip)]
    pub left: Vec<MemberInfo>,
    /// Connections that members got without the program having been asked: before it was there, under
    /// another's, or under none.
    pub unasked: u64,
    /// How often the agent has found the program to be another's or none, and put it back.
    pub displaced: u32,
    /// Whether connections are counted; for UDP, whether there are flows.
    pub counted: bool,
    /// Of UDP: the table of flows, if a choice is made for a flow and not for each datagram.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<FlowsInfo>,
}

/// The table of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlowsInfo {
    /// How long a flow lasts in which nobody sends, in milliseconds.
    pub timeout_ms: u64,
    /// How many flows there is room for.
    pub room: u32,
    /// What it takes of the kernel's memory.
    pub bytes: u64,
    /// Flows that were cut short for want of room though their clients were answered and went on.
    pub evicted: u64,
    /// Others that gave their place to new ones.
    pub evicted_unassured: u64,
}

/// The options of a policy that are not as by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OptionsInfo {
    /// What counts as load, where it is not connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Metric>,
    /// How long a worker may accept none of the connections that wait, in microseconds; 0 for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid_stalled_us: Option<u64>,
    /// How long the weight of a new member grows, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_ms: Option<u64>,
    /// The largest share of new connections that one member gets, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_share: Option<u8>,
    /// Whether requests are tracked even while nobody looks at them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub observe: bool,
}

impl From<PolicyOptions> for OptionsInfo {
    fn from(options: PolicyOptions) -> Self {
        let whole = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
        Self {
            load: Some(options.load).filter(|load| *load != Metric::default()),
            avoid_stalled_us: match options.avoid_stalled {
                Some(STALL) => None,
                time => Some(time.map_or(0, |time| whole(time.as_micros()))),
            },
            slow_start_ms: options.slow_start.map(|time| whole(time.as_millis())),
            max_share: options.max_share.map(Share::percent),
            observe: options.observe,
        }
    }
}

/// Who a group is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupInfo {
    /// The name on bpffs.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Local address and port.
    pub address: String,
    /// Inode of the network namespace.
    pub netns: u64,
    /// The service that it is of, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberInfo {
    /// Place in the socket array.
    pub slot: u32,
    /// The worker.
    pub pid: u32,
    /// 1 to 1,000.
    pub weight: u16,
    /// Whether it gets connections.
    pub state: MemberState,
    /// Connections that it has open now, those that wait to be accepted included; only where they are
    /// counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
    /// Of the open ones, those that owe an answer or have not been asked anything yet; the others are idle.
    /// Only while requests are tracked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<u64>,
    /// Connections that wait, if it stands still and nobody has accepted from it since it is steered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattended: Option<u32>,
    /// Its load in its worker's own words; only where the policy goes by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<u64>,
    /// What it was given.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Connections given to a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Times the program chose it for a new connection.
    pub selected: u64,
    /// Connections that moved to it out of the queue of a listener that closed.
    pub migrated: u64,
    /// Connections that were established with it, whoever chose it; 0 where they are not counted.
    pub established: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        // Of a stranger's making, they could be anything.
        self.selected = self.selected.saturating_add(other.selected);
        self.migrated = self.migrated.saturating_add(other.migrated);
        self.established = self.established.saturating_add(other.established);
    }
}

/// Whether a member gets connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Registered, its worker not ready yet.
    Starting,
    /// Gets connections.
    Live,
    /// Gets none until it takes those who wait: it has stood still for too long.
    Stalled,
    /// Gets no new ones, on purpose.
    Draining,
    /// The same because it is replaced: it is to end.
    #[serde(rename = "draining")]
    Leaving,
    /// Its socket is gone, and nobody has taken it out of the table yet.
    Dead,
    /// It ended, and was taken out of the table.
    Left,
}

impl MemberState {
    /// Whether it is among those that are chosen from, stalled or not.
    pub fn is_in_table(self) -> bool {
        matches!(self, Self::Live | Self::Stalled)
    }

    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Stalled => "stalled",
            Self::Draining | Self::Leaving => "draining",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

impl Snapshot {
    /// Everything given to members, those that have left included.
    pub fn total(&self) -> Tally {
        sum(self.members.iter().chain(&self.left))
    }

    /// Members from which nobody accepts, in words.
    pub fn unattended(&self) -> impl Iterator<Item = String> {
        self.members.iter().filter_map(|member| {
            let (waiting, slot, pid) = (member.unattended?, member.slot, member.pid);
            Some(format!(
                "nothing has been accepted from slot {slot} (PID {pid}) since it was steered, and \
                 {waiting} connections wait there; it gets no more until its process accepts"
            ))
        })
    }

    /// Everything given to members that have left.
    pub fn total_left(&self) -> Tally {
        sum(&self.left)
    }

    /// What is chosen for.
    pub fn unit(&self) -> &'static str {
        match self.group.protocol {
            Protocol::Tcp => "connections",
            Protocol::Udp if self.counted => "flows",
            Protocol::Udp => "datagrams",
        }
    }

    /// Connections as shown to people: those that were established with a member, whoever chose it; or,
    /// if they are not counted, choices of the program. Those that moved to it are shown apart.
    pub fn connections(&self, tally: Tally) -> u64 {
        if self.counted { tally.established } else { tally.selected }
    }
}

fn sum<'a>(members: impl IntoIterator<Item = &'a MemberInfo>) -> Tally {
    members.into_iter().fold(Tally::default(), |mut sum, member| {
        sum += member.tally;
        sum
    })
}

/// `part` of `whole` in percent; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::snapshot as example;

    #[test]
    fn the_json_form_is_the_documented_one() {
        let expected = serde_json::json!({
            "group": {
                "name": "tcp-8080", "protocol": "tcp",
                "address": "127.0.0.1:8080", "netns": 4_026_531_840u64,
            },
            "policy": "weighted",
            "options": {},
            "members": [
                {"slot": 0, "pid": 4711, "weight": 5, "state": "live", "selected": 500, "migrated": 0, "established": 500},
                {"slot": 1, "pid": 4712, "weight": 3, "state": "live", "selected": 300, "migrated": 4, "established": 300},
                {"slot": 3, "pid": 4720, "weight": 2, "state": "draining", "selected": 150, "migrated": 0, "established": 150},
            ],
            "fallback": 0,
            "errors": 0,
            "unasked": 0,
            "displaced": 0,
            "counted": true,
        });
        assert_eq!(serde_json::to_value(example()).unwrap(), expected);
    }

    #[test]
    fn the_json_form_has_options_that_differ_from_the_usual() {
        let options = PolicyOptions {
            load: Metric::Reported,
            avoid_stalled: Some(Duration::from_millis(50)),
            slow_start: Some(Duration::from_millis(1500)),
            max_share: "50%".parse().ok(),
            observe: true,
        };
        let json = serde_json::to_value(OptionsInfo::from(options)).unwrap();
        let expected = serde_json::json!(
            {"load": "reported", "avoid_stalled_us": 50_000, "slow_start_ms": 1500, "max_share": 50, "observe": true}
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn the_total_counts_members_that_have_left() {
        assert_eq!(example().total(), Tally { selected: 1000, migrated: 4, established: 1000 });
    }

    #[test]
    fn nothing_of_nothing_is_no_share() {
        assert!(percent(0, 0).abs() < f64::EPSILON);
    }
}
