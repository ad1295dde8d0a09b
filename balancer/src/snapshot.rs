//! What is known of a group at one moment: the data behind `status`, the live view and the
//! summary. Its JSON form is documented in the README and stable.

use serde::Serialize;

use crate::{group::Protocol, policy::Policy};

/// A group at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Who it is.
    pub group: GroupInfo,
    /// How slots are chosen.
    pub policy: Policy,
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
    /// Its workers are other programs' own, and count nothing for us.
    #[serde(skip)]
    pub adopted: bool,
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
    /// Connections accepted, by the built-in worker's own count. Also known with no program.
    #[serde(skip)]
    pub accepted: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.selected += other.selected;
        self.migrated += other.migrated;
        self.accepted += other.accepted;
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
    /// Gets no new ones, on purpose.
    Draining,
    /// Its socket is gone, and nobody has taken it out of the table yet.
    Dead,
    /// It ended, and was taken out of the table.
    Left,
}

impl MemberState {
    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Draining => "draining",
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

    /// Everything given to members that have left.
    pub fn total_left(&self) -> Tally {
        sum(&self.left)
    }

    /// What is chosen for.
    pub fn unit(&self) -> &'static str {
        match self.group.protocol {
            Protocol::Tcp => "connections",
            Protocol::Udp => "datagrams",
        }
    }

    /// Connections as shown to people: chosen by the program, or, where none is attached, accepted
    /// by the built-in workers.
    pub fn connections(&self, tally: Tally) -> u64 {
        match self.policy.program() {
            Some(_) => tally.selected,
            None => tally.accepted,
        }
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
pub(crate) mod tests {
    use super::*;

    /// Three workers, one of them draining; used by the renderers' tests too.
    pub fn example() -> Snapshot {
        let member = |slot, pid, weight, state, selected, migrated| MemberInfo {
            slot,
            pid,
            weight,
            state,
            tally: Tally { selected, migrated, accepted: selected + migrated },
        };
        Snapshot {
            group: GroupInfo {
                name: "tcp-8080".to_owned(),
                protocol: Protocol::Tcp,
                address: "127.0.0.1:8080".to_owned(),
                netns: 4_026_531_840,
            },
            policy: Policy::Weighted,
            members: vec![
                member(0, 4711, 5, MemberState::Live, 500, 0),
                member(1, 4712, 3, MemberState::Live, 300, 4),
                member(3, 4720, 2, MemberState::Draining, 150, 0),
            ],
            fallback: 0,
            errors: 0,
            left: vec![member(2, 4713, 2, MemberState::Left, 50, 0)],
            adopted: false,
        }
    }

    #[test]
    fn the_json_form_is_the_documented_one() {
        let expected = serde_json::json!({
            "group": {
                "name": "tcp-8080", "protocol": "tcp",
                "address": "127.0.0.1:8080", "netns": 4_026_531_840u64,
            },
            "policy": "weighted",
            "members": [
                {"slot": 0, "pid": 4711, "weight": 5, "state": "live", "selected": 500, "migrated": 0},
                {"slot": 1, "pid": 4712, "weight": 3, "state": "live", "selected": 300, "migrated": 4},
                {"slot": 3, "pid": 4720, "weight": 2, "state": "draining", "selected": 150, "migrated": 0},
            ],
            "fallback": 0,
            "errors": 0,
        });
        assert_eq!(serde_json::to_value(example()).unwrap(), expected);
    }

    #[test]
    fn the_total_counts_members_that_have_left() {
        assert_eq!(example().total(), Tally { selected: 1000, migrated: 4, accepted: 1004 });
    }

    #[test]
    fn nothing_of_nothing_is_no_share() {
        assert!(percent(0, 0).abs() < f64::EPSILON);
    }
}
