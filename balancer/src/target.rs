//! Which of the groups that were found are meant: one, or all of a service. Pure.

use std::{fmt, net::SocketAddr};

use balancer_steering::{
    address::{AttachAddress, ServedAddress},
    discovery::{FoundGroup, NetnsArgument, Problem, UnrelatedSocket},
    escape::printable,
    group::{GroupIdentity, Protocol},
};

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where.
    pub address: ServedAddress,
    /// By which protocol, if that was said.
    pub protocol: Option<Protocol>,
    /// In which network namespace, unless it is our own.
    pub netns: Option<&'a NetnsArgument>,
}

/// Why no group is meant.
#[derive(Debug)]
pub enum Unclear<'a> {
    /// There is none.
    None(Target<'a>),
    /// There are several: two groups are never one.
    Several(Target<'a>, Vec<&'a FoundGroup>),
}

impl<'a> Target<'a> {
    /// The one group that is meant. A port alone may mean either protocol, an address only TCP
    /// unless UDP is asked for.
    ///
    /// # Errors
    /// Returns an error if it is none or several.
    pub fn among(&self, groups: &'a [FoundGroup]) -> Result<&'a FoundGroup, Unclear<'a>> {
        let meant: Vec<_> = groups.iter().filter(|group| self.is_meant(group)).collect();
        match meant.as_slice() {
            [only] => Ok(only),
            [] => Err(Unclear::None(*self)),
            _ => Err(Unclear::Several(*self, meant)),
        }
    }

    /// All groups that are meant of a service. A port alone means those of TCP, or if there are none,
    /// those of UDP.
    ///
    /// # Errors
    /// Returns an error if it is none, or two that cannot be told apart.
    fn all(&self, groups: &'a [FoundGroup]) -> Result<Vec<&'a FoundGroup>, Unclear<'a>> {
        let mut meant: Vec<_> = groups.iter().filter(|group| self.is_meant(group)).collect();
        if meant.iter().any(|group| group.identity.protocol == Protocol::Tcp) && !self.is_udp() {
            meant.retain(|group| group.identity.protocol == Protocol::Tcp);
        }
        match meant.as_slice() {
            [] => Err(Unclear::None(*self)),
            _ if meant.iter().any(|group| is_ambiguous(group, &meant)) => {
                Err(Unclear::Several(*self, meant))
            }
            _ => Ok(meant),
        }
    }

    fn is_udp(&self) -> bool {
        self.protocol == Some(Protocol::Udp)
    }

    fn is_meant(&self, group: &FoundGroup) -> bool {
        let either = self.protocol.is_none() && matches!(self.address, ServedAddress::Port(_));
        let wanted = self.protocol.unwrap_or(Protocol::Tcp);
        self.address.matches(group.identity.address)
            && (either || group.identity.protocol == wanted)
    }
}

/// The groups of a service: all that any of these targets means, each once, in the order in which they are
/// named.
///
/// # Errors
/// Returns an error if one of the targets means none, or two that cannot be told apart.
pub fn of_service<'a>(
    targets: &[Target<'a>],
    groups: &'a [FoundGroup],
) -> Result<Vec<&'a FoundGroup>, Unclear<'a>> {
    let mut all: Vec<&FoundGroup> = Vec::new();
    for target in targets {
        for group in target.all(groups)? {
            if !all.iter().any(|other| other.identity == group.identity) {
                all.push(group);
            }
        }
    }
    Ok(all)
}

/// Whether another group has the same address, so that no command means one of them.
fn is_ambiguous(group: &FoundGroup, groups: &[&FoundGroup]) -> bool {
    groups.iter().filter(|other| named(other) == named(group)).count() > 1
}

fn named(group: &FoundGroup) -> (Protocol, SocketAddr) {
    let GroupIdentity { protocol, address, .. } = group.identity;
    (protocol, address)
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_udp() { "UDP " } else { "" }, self.address)
    }
}

impl fmt::Display for Unclear<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None(target) => {
                write!(f, "no group of sockets with SO_REUSEPORT serves {target}")
            }
            Self::Several(target, groups) => several(f, *target, groups),
        }
    }
}

fn several(f: &mut fmt::Formatter<'_>, target: Target<'_>, groups: &[&FoundGroup]) -> fmt::Result {
    let count = groups.len();
    write!(f, "{target} is served by {count} groups, and each is steered separately; choose one")?;
    let unclear = groups.iter().any(|group| is_ambiguous(group, groups));
    if unclear {
        write!(f, ":")?;
    } else {
        let port = target.address.port();
        write!(f, ", or all of them as a service:\n  balancer attach ")?;
        for address in whole(target, groups) {
            write!(f, "{address} ")?;
        }
        write!(f, "--service port-{port}{}    all {count} groups", in_netns(target))?;
    }
    for group in groups {
        let udp = if group.identity.protocol == Protocol::Udp { " --udp" } else { "" };
        let alike = is_ambiguous(group, groups);
        let beside = match (&group.device, alike) {
            (Some(device), _) => format!(" (on {})", printable(device)),
            (None, true) => format!(" (uid {}, IPv6 only: {})", group.uid, group.v6only),
            (None, false) => String::new(),
        };
        let sockets = group.sockets.len();
        let address = match group.identity.address {
            // A shell takes the brackets for a pattern of file names.
            SocketAddr::V6(v6) => format!("'{v6}'"),
            SocketAddr::V4(v4) => v4.to_string(),
        };
        if alike {
            write!(f, "\n  {}    {sockets} sockets{beside}", group.identity)?;
        } else {
            let netns = in_netns(target);
            write!(f, "\n  balancer attach {address}{udp}{netns}    {sockets} sockets{beside}")?;
        }
    }
    if unclear {
        write!(f, "\ngroups that differ only by device or user cannot be told apart by attach")?;
    }
    Ok(())
}

/// The addresses that mean all of these groups, which are all that the target means.
fn whole(target: Target<'_>, groups: &[&FoundGroup]) -> Vec<AttachAddress> {
    let address = |protocol| AttachAddress { protocol, address: target.address };
    let has = |protocol| groups.iter().any(|group| group.identity.protocol == protocol);
    match target.protocol {
        None if has(Protocol::Tcp) && has(Protocol::Udp) => {
            vec![address(None), address(Some(Protocol::Udp))]
        }
        protocol => vec![address(protocol)],
    }
}

fn in_netns(target: Target<'_>) -> String {
    target.netns.map(|netns| format!(" --netns {netns}")).unwrap_or_default()
}

/// What is there where no group is, and what would make it one.
pub fn remedy(target: Target<'_>, there: &[UnrelatedSocket]) -> String {
    if there.is_empty() {
        return format!(
            "start the server first, or see `balancer groups` (a server in another \
             network namespace is found with --netns PID; it must serve port {})",
            target.address.port()
        );
    }
    let lines = there.iter().map(|unrelated| {
        let place = &unrelated.place;
        let holders: Vec<String> = unrelated
            .socket
            .holders
            .iter()
            .map(|holder| format!("PID {} ({})", holder.process.pid, printable(&holder.command)))
            .collect();
        let by =
            if holders.is_empty() { "an unseen process".to_owned() } else { holders.join(", ") };
        let hint = match (unrelated.shares, unrelated.socket.problem) {
            (_, Some(problem @ Problem::Unseen)) => problem.explanation(),
            (true, _) if unrelated.protocol == Protocol::Udp => "shares its port; try --udp",
            (true, _) => "shares its port; name this address",
            (false, _) => {
                "does not share its port; set SO_REUSEPORT in the server, before it binds"
            }
        };
        format!("\n  {place} by {by}: {hint}")
    });
    format!("these sockets have that port:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::testing::found_group as group;

    fn groups() -> Vec<FoundGroup> {
        vec![
            group(Protocol::Tcp, "0.0.0.0:80", &[(7, "nginx")]),
            group(Protocol::Tcp, "127.0.0.1:80", &[(8, "nginx"), (9, "nginx")]),
            group(Protocol::Udp, "127.0.0.1:80", &[(10, "nginx")]),
            group(Protocol::Udp, "0.0.0.0:53", &[(11, "unbound")]),
        ]
    }

    fn target(address: &str, udp: bool) -> Target<'static> {
        let protocol = udp.then_some(Protocol::Udp);
        Target { address: address.parse().unwrap(), protocol, netns: None }
    }

    fn meant(address: &str, udp: bool) -> Option<String> {
        let (target, groups) = (target(address, udp), groups());
        target.among(&groups).ok().map(|group| group.identity.to_string())
    }

    #[test]
    fn an_address_means_its_own_group_alone() {
        assert_eq!(meant("127.0.0.1:80", false).as_deref(), Some("tcp/127.0.0.1:80"));
        assert_eq!(meant("127.0.0.1:80", true).as_deref(), Some("udp/127.0.0.1:80"));
        assert_eq!(meant("0.0.0.0:80", true), None);
        assert_eq!(meant("0.0.0.0:53", false), None);
    }

    #[test]
    fn a_port_means_the_only_group_there() {
        assert_eq!(meant(":53", false).as_deref(), Some("udp/0.0.0.0:53"));
        assert_eq!(meant(":80", true).as_deref(), Some("udp/127.0.0.1:80"));
        assert_eq!(meant(":80", false), None);
        assert_eq!(meant(":81", false), None);
    }

    #[test]
    fn several_are_listed_each_with_the_command_that_means_it() {
        let groups = groups();
        let netns = NetnsArgument::Process(7);
        let target = Target { netns: Some(&netns), ..target(":80", false) };
        let message = target.among(&groups).unwrap_err().to_string();
        for line in [
            ":80 is served by 3 groups",
            "\n  balancer attach :80 udp/:80 --service port-80 --netns 7    all 3 groups",
            "\n  balancer attach 0.0.0.0:80 --netns 7    1 sockets",
            "\n  balancer attach 127.0.0.1:80 --netns 7    2 sockets",
            "\n  balancer attach 127.0.0.1:80 --udp --netns 7    1 sockets",
        ] {
            assert!(message.contains(line), "no {line:?} in {message}");
        }
    }

    fn service(addresses: &[(&str, bool)]) -> Result<Vec<String>, String> {
        let groups = groups();
        let targets: Vec<_> = addresses.iter().map(|&(text, udp)| target(text, udp)).collect();
        let meant = of_service(&targets, &groups).map_err(|unclear| unclear.to_string())?;
        Ok(meant.iter().map(|group| group.identity.to_string()).collect())
    }

    #[test]
    fn of_a_service_a_port_means_every_group_on_it_of_one_protocol() {
        let tcp = ["tcp/0.0.0.0:80", "tcp/127.0.0.1:80"];
        assert_eq!(service(&[(":80", false)]).unwrap(), tcp);
        assert_eq!(service(&[(":80", true)]).unwrap(), ["udp/127.0.0.1:80"]);
        assert_eq!(service(&[(":53", false)]).unwrap(), ["udp/0.0.0.0:53"]);
    }

    #[test]
    fn a_service_has_each_group_once_and_none_if_an_address_is_not_served() {
        let named = [("127.0.0.1:80", false), (":80", false), (":80", true)];
        let expected = ["tcp/127.0.0.1:80", "tcp/0.0.0.0:80", "udp/127.0.0.1:80"];
        assert_eq!(service(&named).unwrap(), expected);
        let error = service(&[(":80", false), (":81", false)]).unwrap_err();
        assert!(error.contains("serves :81"), "{error}");
    }

    #[test]
    fn a_device_that_tells_groups_apart_is_shown() {
        let one = group(Protocol::Tcp, "0.0.0.0:80", &[(7, "nginx")]);
        let other = FoundGroup { device: Some("eth1".to_owned()), ..one.clone() };
        let groups = [one, other];
        let message = target("0.0.0.0:80", false).among(&groups).unwrap_err().to_string();
        assert!(message.contains("on eth1") && message.contains("cannot be told apart"));
        assert!(!message.contains("balancer attach"), "no command means one of them: {message}");
        assert!(target(":80", false).all(&groups).is_err());
    }
}
