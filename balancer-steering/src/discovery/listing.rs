//! The groups that were found, and which of them balancer steers: the data behind `groups`. Its
//! JSON form is documented in docs/reference.md and stable.

use serde::Serialize;

use crate::discovery::FoundGroup;

/// What `groups` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The groups, by namespace and port.
    pub groups: Vec<ListedGroup>,
    /// Network namespaces that could not be looked into.
    pub skipped_namespaces: usize,
    /// The network namespace that a reader takes for granted.
    #[serde(skip)]
    pub home: u64,
}

/// A group and its steering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedGroup {
    /// As the kernel has it.
    #[serde(flatten)]
    pub group: FoundGroup,
    /// The name under which balancer steers it.
    pub steered: Option<String>,
}

/// A group as balancer has it pinned.
#[derive(Clone, Debug)]
pub struct PinnedGroup {
    /// Its name.
    pub name: String,
    /// Cookies of its members' sockets.
    pub cookies: Vec<u64>,
}

impl ListedGroup {
    /// Finds a group's steering. It goes by sockets, not by address: pins may outlive the group that
    /// they were made for, and its address be another's by now.
    pub fn new(group: FoundGroup, pinned: &[PinnedGroup]) -> Self {
        let is_ours = |pinned: &&PinnedGroup| {
            group.sockets.iter().any(|socket| pinned.cookies.contains(&socket.cookie))
        };
        let steered = pinned.iter().find(is_ours).map(|pinned| pinned.name.clone());
        Self { group, steered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{discovery::Problem, group::Protocol, testing::found_group as group};

    #[test]
    fn a_group_is_known_by_its_sockets() {
        let found = group(Protocol::Tcp, "127.0.0.1:80", &[(7, "nginx"), (8, "nginx")]);
        let pinned = |name: &str, cookies: &[u64]| PinnedGroup {
            name: name.to_owned(),
            cookies: cookies.to_vec(),
        };
        let all = [pinned("other", &[1, 2]), pinned("ours", &[9, 8])];
        assert_eq!(ListedGroup::new(found.clone(), &all).steered.as_deref(), Some("ours"));
        assert_eq!(ListedGroup::new(found, &all[..1]).steered, None);
    }

    #[test]
    fn the_json_form_is_as_documented() {
        let mut group = group(Protocol::Tcp, "[::]:80", &[(811, "nginx")]);
        group.sockets[0].problem = Some(Problem::Mptcp);
        let listed = ListedGroup { group, steered: Some("tcp-80".to_owned()) };
        let listing = Listing { groups: vec![listed], skipped_namespaces: 2, home: 1 };
        let expected = serde_json::json!({
            "groups": [{
                "netns": 1, "protocol": "tcp", "address": "[::]:80", "v6only": false,
                "device": null, "uid": 0,
                "sockets": [{
                    "inode": 1811, "queue": 0,
                    "holders": [{"pid": 811, "fd": 3, "command": "nginx"}],
                    "worker": {"pid": 811, "fd": 3, "command": "nginx"},
                    "guessed": false, "problem": "mptcp",
                }],
                "steered": "tcp-80",
            }],
            "skipped_namespaces": 2,
        });
        assert_eq!(serde_json::to_value(&listing).unwrap(), expected);
    }
}
