//! What is known of a group at one moment: the data behind `status`, the live view and the
//! summary. Its JSON form is documented in the README and stable.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    group::Protocol,
    patience::Patience,
    policy::Policy,
    tuning::{Load, Tuning},
};

/// A group at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Who it is.
    pub group: GroupInfo,
    /// How slots are chosen.
    pub policy: Policy,
    /// With what options.
    pub options: Options,
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

/// The options of a policy that are not as by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Options {
    /// What counts as load, where it is not connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// How long a worker may take none of those who wait, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid_stalled_us: Option<u64>,
    /// How long the weight of a new member grows, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_ms: Option<u64>,
}

impl From<Tuning> for Options {
    fn from(tuning: Tuning) -> Self {
        let whole = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
        Self {
            load: Some(tuning.load).filter(|load| *load != Load::default()),
            avoid_stalled_us: tuning.avoid_stalled.map(|time| whole(time.as_micros())),
            slow_start_ms: tuning.slow_start.map(|time| whole(time.as_millis())),
        }
    }
}

impl fmt::Display for Options {
    /// As on the command line, each after a space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.load.is_some() {
            f.write_str(" --load reported")?;
        }
        let avoided = self.avoid_stalled_us.map(Duration::from_micros);
        let slow = self.slow_start_ms.map(Duration::from_millis);
        for (option, time) in [("avoid-stalled", avoided), ("slow-start", slow)] {
            if let Some(time) = time {
                write!(f, " --{option} {}", Patience(time))?;
            }
        }
        Ok(())
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
    /// Connections that it has open now; only where the policy counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<u64>,
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
    /// Connections accepted, by the built-in worker's own count. Also known with no program.
    #[serde(skip)]
    pub accepted: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        // Of a stranger's making, they could be anything.
        self.selected = self.selected.saturating_add(other.selected);
        self.migrated = self.migrated.saturating_add(other.migrated);
        self.accepted = self.accepted.saturating_add(other.accepted);
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

    /// Everything given to members that have left.
    pub fn total_left(&self) -> Tally {
        sum(&self.left)
    }

    /// The policy and its options, as on the command line.
    pub fn policy_line(&self) -> String {
        policy_line(self.policy, self.options)
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

/// A policy and its options, as on the command line. What chooses nothing has none.
pub fn policy_line(policy: Policy, options: Options) -> String {
    let options = if policy.steers() { options } else { Options::default() };
    format!("{}{options}", policy.name())
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
            open: None,
            load: None,
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
            options: Options::default(),
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
            "options": {},
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
    fn options_read_as_they_are_typed() {
        let tuning = Tuning {
            load: Load::Reported,
            avoid_stalled: Some(Duration::from_millis(50)),
            slow_start: Some(Duration::from_millis(1500)),
        };
        let snapshot = Snapshot { options: tuning.into(), ..example() };
        let expected = "weighted --load reported --avoid-stalled 50ms --slow-start 1500ms";
        assert_eq!(snapshot.policy_line(), expected);
        let json = serde_json::to_value(snapshot.options).unwrap();
        let expected = serde_json::json!(
            {"load": "reported", "avoid_stalled_us": 50_000, "slow_start_ms": 1500}
        );
        assert_eq!(json, expected);
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
