//! Who a group is: the human's form, and its one conversion to and from the pinned record.

use std::{fmt, fs, io, net::SocketAddr, os::unix::fs::MetadataExt as _, time::Duration};

use balancer_common::{LAYOUT_VERSION, record::GroupRecord};
use serde::Serialize;

pub use crate::protocol::Protocol;
use crate::{
    address,
    flows::Flows,
    metric::Metric,
    options::{PolicyOptions, Share},
    policy::Policy,
    process::Identity,
    service::ServiceName,
};

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

impl GroupIdentity {
    /// As it is given to a command: the address, and `udp/` before it if it is of UDP.
    pub fn typed(&self) -> String {
        match self.protocol {
            Protocol::Tcp => self.address.to_string(),
            Protocol::Udp => self.to_string(),
        }
    }
}

impl fmt::Display for GroupIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.address)
    }
}

/// A group as it is pinned: who it is and how it is steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Who it is.
    pub identity: GroupIdentity,
    /// How slots are chosen.
    pub policy: Policy,
    /// And with what options.
    pub options: PolicyOptions,
    /// Who supervises its workers, or watches for new ones; PID 0 for nobody.
    pub agent: Identity,
    /// aya-log level of its programs.
    pub log_level: u8,
    /// Its sockets are other programs' own.
    pub adopted: bool,
    /// A program of somebody else was detached to make room.
    pub replaced: bool,
    /// Its connections are counted, or are to be; for UDP, its flows, if it has any.
    pub counted: bool,
    /// That a choice is made for a flow, for UDP; else it is made for each datagram.
    pub flows: Option<Flows>,
    /// Its place among the groups of the host, which it gets when it is made.
    pub index: u32,
    /// The service that it is of, if any.
    pub service: Option<ServiceName>,
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

impl From<GroupSpec> for GroupRecord {
    fn from(group: GroupSpec) -> Self {
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
            load: group.options.load as u8,
            address: octets,
            scope,
            port: address.port(),
            family: if address.is_ipv4() { 4 } else { 6 },
            protocol: protocol as u8,
            avoid_stalled: whole(group.options.avoid_stalled.map(|time| time.as_micros())),
            slow_start: whole(group.options.slow_start.map(|time| time.as_millis())),
            index: group.index,
            counted: group.counted.into(),
            observed: group.options.observe.into(),
            max_share: group.options.max_share.map_or(0, Share::percent),
            flow_sets: group.flows.map_or(0, |flows| flows.sets),
            flow_timeout: whole(group.flows.map(|flows| flows.timeout.as_millis())),
            flow_seed: group.flows.map_or(0, |flows| flows.seed),
            service: ServiceName::to_record(group.service),
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

impl TryFrom<GroupRecord> for GroupSpec {
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
            options: PolicyOptions {
                load: match record.load {
                    0 => Metric::Connections,
                    1 => Metric::Reported,
                    2 => Metric::Requests,
                    _ => return Err(ForeignRecord::Damaged("unknown load")),
                },
                avoid_stalled: time(record.avoid_stalled, Duration::from_micros),
                slow_start: time(record.slow_start, Duration::from_millis),
                max_share: Share::from_record(record.max_share),
                observe: record.observed != 0,
            },
            agent: Identity { pid: record.agent_pid, start: record.agent_start },
            log_level: record.log_level,
            adopted: record.adopted != 0,
            replaced: record.replaced != 0,
            counted: record.counted != 0,
            flows: Flows::from_record(record.flow_sets, record.flow_timeout, record.flow_seed)
                .map_err(ForeignRecord::Damaged)?,
            index: record.index,
            service: ServiceName::from_record(record.service)
                .map_err(|_| ForeignRecord::Damaged("the name of its service"))?,
        })
    }
}

/// Inode of this thread's network namespace.
///
/// # Errors
/// Returns an error if /proc cannot be read.
pub fn own_netns() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// The name of a group that was given none, unless another group has it: protocol and port.
pub fn default_name(protocol: Protocol, address: SocketAddr) -> String {
    format!("{protocol}-{}", address.port())
}

/// The names that a group may have which was given none, the one to prefer first: the short one; one
/// with the address, for the other groups on that port (bpffs takes no dots); and one with the
/// network namespace too, as no two groups share all of these.
pub fn default_names(identity: &GroupIdentity) -> [String; 3] {
    let GroupIdentity { netns, protocol, address } = *identity;
    let short = default_name(protocol, address);
    let numbers = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => vec!["ipv4".to_owned()],
        SocketAddr::V4(v4) => v4.ip().octets().map(|octet| octet.to_string()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => vec!["ipv6".to_owned()],
        SocketAddr::V6(v6) => {
            let scope = Some(v6.scope_id()).filter(|scope| *scope != 0);
            let segments = v6.ip().segments().map(|segment| format!("{segment:x}"));
            segments.into_iter().chain(scope.map(|scope| scope.to_string())).collect()
        }
    };
    let long = format!("{short}-{}", numbers.join("-"));
    let longest = format!("{long}-{netns}");
    [short, long, longest]
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_group_survives_its_record(
            ip: IpAddr, port: u16, netns: u64, udp: bool, pid: u32, start: u64, log_level: u8,
            adopted: bool, replaced: bool, reported: bool, stalled: u32, slow: u32, counted: bool,
            observe: bool, share in 0..=100u8,
            index: u32, room: u32, flows: bool, timeout in 1..u32::MAX,
            service in prop::option::of("[a-z]{1,32}"),
            policy in prop::sample::select(Policy::ALL.to_vec()),
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let group = GroupSpec {
                identity: GroupIdentity { netns, protocol, address: SocketAddr::new(ip, port) },
                policy,
                options: PolicyOptions {
                    load: if reported { Metric::Reported } else { Metric::Connections },
                    avoid_stalled: time(stalled, Duration::from_micros),
                    slow_start: time(slow, Duration::from_millis),
                    max_share: Share::from_record(share),
                    observe,
                },
                agent: Identity { pid, start },
                log_level,
                adopted,
                replaced,
                counted,
                flows: flows.then(|| Flows::new(Duration::from_millis(timeout.into()), room)),
                index,
                service: service.and_then(|name| name.parse().ok()),
            };
            prop_assert_eq!(GroupSpec::try_from(GroupRecord::from(group)), Ok(group));
        }
    }

    #[test]
    fn a_record_of_another_layout_or_a_strangers_making_is_refused() {
        let record = GroupRecord { version: LAYOUT_VERSION + 1, ..GroupRecord::default() };
        assert_eq!(GroupSpec::try_from(record), Err(ForeignRecord::Version(LAYOUT_VERSION + 1)));
        let record = GroupRecord { version: LAYOUT_VERSION, ..GroupRecord::default() };
        assert!(matches!(GroupSpec::try_from(record), Err(ForeignRecord::Damaged(_))));
    }

    #[test]
    fn groups_on_one_port_have_names_that_tell_their_addresses_and_namespaces_apart() {
        let names = |netns, address: &str| {
            let (protocol, address) = (Protocol::Tcp, address.parse().unwrap());
            default_names(&GroupIdentity { netns, protocol, address })
        };
        assert_eq!(names(5, "0.0.0.0:80"), ["tcp-80", "tcp-80-ipv4", "tcp-80-ipv4-5"]);
        assert_eq!(names(5, "[::]:80")[1], "tcp-80-ipv6");
        assert_eq!(names(5, "127.0.0.1:80")[1], "tcp-80-127-0-0-1");
        assert_eq!(names(5, "[fe80::1]:80")[1], "tcp-80-fe80-0-0-0-0-0-0-1");
        assert_eq!(names(5, "[fe80::1%3]:80")[1], "tcp-80-fe80-0-0-0-0-0-0-1-3");
    }
}
