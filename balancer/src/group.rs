//! Who a group is: the human's form, and its one conversion to and from the pinned record.

use std::{fmt, fs, io, net::SocketAddr, os::unix::fs::MetadataExt as _, time::Duration};

use balancer_ebpf::{LAYOUT_VERSION, record::GroupRecord};
use serde::Serialize;

use crate::{
    address,
    policy::Policy,
    process::Identity,
    tuning::{Load, Tuning},
};

/// Transport protocol of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A choice a connection.
    Tcp = 6,
    /// A choice a datagram.
    Udp = 17,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What makes a group the same group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GroupIdentity {
    /// Inode of the network namespace, as in `readlink /proc/PID/ns/net`.
    pub netns: u64,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Local address.
    pub address: SocketAddr,
}

impl fmt::Display for GroupIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.address)
    }
}

/// A group as it is pinned: who it is and how it is steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Who it is.
    pub identity: GroupIdentity,
    /// How slots are chosen.
    pub policy: Policy,
    /// And with what options.
    pub tuning: Tuning,
    /// Who supervises its workers, or watches for new ones; PID 0 for nobody.
    pub agent: Identity,
    /// aya-log level of its programs.
    pub log_level: u8,
    /// Its sockets are other programs' own.
    pub adopted: bool,
    /// A program of somebody else was detached to make room.
    pub replaced: bool,
}

/// Why a pinned record is no group of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignRecord {
    /// Another build's.
    #[error(
        "it was pinned by another version of balancer (layout {0}, this one has {LAYOUT_VERSION}); \
         use that version, or remove the group's directory on bpffs"
    )]
    Version(u32),
    /// Not written by us.
    #[error("its record is damaged ({0}); remove the group's directory on bpffs")]
    Damaged(&'static str),
}

impl From<Group> for GroupRecord {
    fn from(group: Group) -> Self {
        let GroupIdentity { netns, protocol, address } = group.identity;
        let (octets, scope) = address::to_octets(address);
        Self {
            version: LAYOUT_VERSION,
            policy: group.policy as u32,
            netns,
            agent_start: group.agent.start,
            agent_pid: group.agent.pid,
            log_level: group.log_level,
            adopted: group.adopted.into(),
            replaced: group.replaced.into(),
            load: group.tuning.load as u8,
            address: octets,
            scope,
            port: address.port(),
            family: if address.is_ipv4() { 4 } else { 6 },
            protocol: protocol as u8,
            avoid_stalled: whole(group.tuning.avoid_stalled.map(|time| time.as_micros())),
            slow_start: whole(group.tuning.slow_start.map(|time| time.as_millis())),
        }
    }
}

/// A time as it is recorded: 0 for none, the longest there is for a longer one.
fn whole(time: Option<u128>) -> u32 {
    time.map_or(0, |time| u32::try_from(time).unwrap_or(u32::MAX))
}

fn time(recorded: u32, unit: fn(u64) -> Duration) -> Option<Duration> {
    (recorded != 0).then(|| unit(recorded.into()))
}

impl TryFrom<GroupRecord> for Group {
    type Error = ForeignRecord;

    fn try_from(record: GroupRecord) -> Result<Self, ForeignRecord> {
        if record.version != LAYOUT_VERSION {
            return Err(ForeignRecord::Version(record.version));
        }
        let protocol = match record.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return Err(ForeignRecord::Damaged("unknown protocol")),
        };
        let address =
            address::from_octets(record.family, record.address, record.scope, record.port)
                .ok_or(ForeignRecord::Damaged("unknown address family"))?;
        Ok(Self {
            identity: GroupIdentity { netns: record.netns, protocol, address },
            policy: Policy::from_number(record.policy)
                .ok_or(ForeignRecord::Damaged("unknown policy"))?,
            tuning: Tuning {
                load: match record.load {
                    0 => Load::Connections,
                    1 => Load::Reported,
                    _ => return Err(ForeignRecord::Damaged("unknown load")),
                },
                avoid_stalled: time(record.avoid_stalled, Duration::from_micros),
                slow_start: time(record.slow_start, Duration::from_millis),
            },
            agent: Identity { pid: record.agent_pid, start: record.agent_start },
            log_level: record.log_level,
            adopted: record.adopted != 0,
            replaced: record.replaced != 0,
        })
    }
}

/// Inode of this thread's network namespace.
///
/// # Errors
/// Where /proc cannot be read.
pub fn own_netns() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use clap::ValueEnum as _;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_group_survives_its_record(
            ip: IpAddr, port: u16, netns: u64, udp: bool, pid: u32, start: u64, log_level: u8,
            adopted: bool, replaced: bool, reported: bool, stalled: u32, slow: u32,
            policy in prop::sample::select(Policy::value_variants()),
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let group = Group {
                identity: GroupIdentity { netns, protocol, address: SocketAddr::new(ip, port) },
                policy,
                tuning: Tuning {
                    load: if reported { Load::Reported } else { Load::Connections },
                    avoid_stalled: time(stalled, Duration::from_micros),
                    slow_start: time(slow, Duration::from_millis),
                },
                agent: Identity { pid, start },
                log_level,
                adopted,
                replaced,
            };
            prop_assert_eq!(Group::try_from(GroupRecord::from(group)), Ok(group));
        }
    }

    #[test]
    fn a_record_of_another_layout_or_a_strangers_making_is_refused() {
        let record = GroupRecord { version: LAYOUT_VERSION + 1, ..GroupRecord::default() };
        assert_eq!(Group::try_from(record), Err(ForeignRecord::Version(LAYOUT_VERSION + 1)));
        let record = GroupRecord { version: LAYOUT_VERSION, ..GroupRecord::default() };
        assert!(matches!(Group::try_from(record), Err(ForeignRecord::Damaged(_))));
    }
}
