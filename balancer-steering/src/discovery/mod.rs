//! Finds the kernel's groups and who serves them, whoever started them.
//!
//! | step | module |
//! | --- | --- |
//! | network namespaces, named or all | `netns` |
//! | a namespace's listening sockets, from the kernel | `diag`, `netlink` |
//! | the processes that hold them, from /proc | `holders` |
//! | sockets to groups (pure) | `grouping` |
//! | of several holders, the one that accepts (pure) | `choice` |
//! | the socket that a process bound for itself | `bound` |
//! | a process and its descendants, and what they have open | `family` |
//! | what waits in a group's queues, and its connections | `remaining` |
//! | the groups that were found, and which of them are steered | [`listing`] |
//! | one group again and again, and who stands beside it | `group_watcher` |

mod activity;
mod bound;
mod choice;
pub mod diag;
mod family;
mod group_watcher;
pub mod grouping;
mod holders;
pub mod listing;
pub mod netlink;
pub mod netns;
mod remaining;

use std::collections::{HashMap, HashSet};

use crate::error::{Context as _, Result};
use serde::Serialize;
use socket2::SockRef;

use self::holders::{HeldBy, Holders};
pub(crate) use self::remaining::activities;
pub use self::{
    activity::Activity,
    bound::{Bound, NotBound, bound_by},
    diag::{BoundSocket, Connection, Life},
    family::{Sockets, sockets_of},
    group_watcher::{GroupWatcher, UnrelatedSocket, unrelated_sockets},
    netns::{Netns, NetnsArgument},
    remaining::{Backlog, Cookies, arriving, backlogs, connections, queues},
};
use crate::{
    group::GroupIdentity,
    process::{self, Identity},
};

/// One of the kernel's groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundGroup {
    /// Namespace, protocol and address.
    #[serde(flatten)]
    pub identity: GroupIdentity,
    /// Whether an IPv6 group leaves IPv4 alone, as it always does unless it is bound to `[::]`;
    /// false for IPv4.
    pub v6only: bool,
    /// The network device it is bound to: its name, or its index where that is gone.
    pub device: Option<String>,
    /// Whose sockets they are; the kernel groups within one user only.
    pub uid: u32,
    /// Its members, by inode.
    pub sockets: Vec<FoundSocket>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundSocket {
    /// Its inode, as in `readlink /proc/PID/fd/N`.
    pub inode: u64,
    /// The kernel's own name for it, never used twice.
    #[serde(skip)]
    pub cookie: u64,
    /// TCP: connections that wait to be accepted. UDP: bytes that wait to be read.
    pub queue: u32,
    /// The processes that have it open, by PID.
    pub holders: Vec<Holder>,
    /// The one of them that accepts from it.
    pub worker: Option<Holder>,
    /// Whether `worker` is no more than likely.
    pub guessed: bool,
    /// Why it cannot be steered.
    pub problem: Option<Problem>,
}

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Who.
    #[serde(flatten)]
    pub process: Identity,
    /// Its descriptor of the socket.
    pub fd: i32,
    /// The process's command name.
    pub command: String,
}

/// Why a socket cannot be steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Problem {
    /// It speaks MPTCP, which the kernel's socket arrays refuse.
    Mptcp,
    /// No process is seen to hold it, so nobody can be asked for it.
    Unseen,
}

impl Problem {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mptcp => "MPTCP",
            Self::Unseen => "unseen",
        }
    }

    /// What it means, and what to do.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Mptcp => {
                "cannot be steered; use plain TCP (Go: start the server with GODEBUG=multipathtcp=0)"
            }
            Self::Unseen => {
                "no process is seen to have it open; run this as root, in the host's PID namespace"
            }
        }
    }
}

/// What a look over the whole machine found.
#[derive(Debug)]
pub struct Everywhere {
    /// The groups, by namespace and port.
    pub groups: Vec<FoundGroup>,
    /// Network namespaces that could not be looked into.
    pub skipped: usize,
}

/// The groups of one network namespace, by port and address.
///
/// # Errors
/// Returns an error if the namespace cannot be entered, or the kernel does not list its sockets.
pub fn groups_in(netns: &Netns) -> Result<Vec<FoundGroup>> {
    let sockets = sockets_in(netns)?;
    let holders = Holders::of(sockets.iter().map(|socket| socket.inode));
    Ok(groups(netns.inode(), sockets, &holders))
}

/// The groups of every network namespace that a process is in. One that cannot be looked into is
/// warned of and counted.
///
/// # Errors
/// Returns an error if /proc cannot be read.
pub fn groups_everywhere() -> Result<Everywhere> {
    let mut skipped = 0;
    let mut found = Vec::new();
    for netns in netns::all()? {
        match sockets_in(&netns) {
            Ok(sockets) => found.push((netns.inode(), sockets)),
            Err(error) => {
                tracing::warn!("{error:#}; skipped");
                skipped += 1;
            }
        }
    }
    // /proc is walked once for all: that is what takes time.
    let holders =
        Holders::of(found.iter().flat_map(|(_, sockets)| sockets).map(|socket| socket.inode));
    let groups =
        found.into_iter().flat_map(|(netns, sockets)| groups(netns, sockets, &holders)).collect();
    Ok(Everywhere { groups, skipped })
}

fn sockets_in(netns: &Netns) -> Result<Vec<BoundSocket>> {
    netns
        .run(diag::sockets)
        .with_context(|| format!("cannot list the sockets of the network namespace {netns}"))
}

fn groups(netns: u64, sockets: Vec<BoundSocket>, holders: &Holders) -> Vec<FoundGroup> {
    let shares = |socket: &BoundSocket| shares(socket, holders.of_socket(socket.inode));
    grouping::groups(sockets, shares)
        .into_iter()
        .map(|members| found_group(netns, &members, holders))
        .collect()
}

/// Whether a socket has SO_REUSEPORT. The kernel's diagnostics do not say, so it is borrowed from
/// a holder and asked, and given back at once, as a copy that lingered would outlive its worker;
/// `None` where nobody lends it.
fn shares(socket: &BoundSocket, holders: &[HeldBy]) -> Option<bool> {
    holders.iter().find_map(|held| {
        let Holder { process, fd, .. } = held.holder;
        let borrowed = process::duplicate_fd(process, fd, socket.inode).ok()?;
        SockRef::from(&borrowed).reuse_port().ok()
    })
}

/// What the processes that have a socket open tell of the one that accepts from it.
#[derive(Debug)]
pub struct Accepting {
    /// All of them, by PID.
    pub holders: Vec<Identity>,
    /// The one that accepts.
    pub worker: Identity,
    /// Others were as likely.
    pub guessed: bool,
    /// It only holds the socket, and is the parent of processes that hold one of the sockets asked
    /// for: the master of a server whose workers accept.
    pub is_parent: bool,
}

/// Which processes accept from these sockets, by inode, by looking at every process. A socket that
/// no process is seen to hold is left out.
pub fn accepting(inodes: impl Iterator<Item = u64> + Clone) -> HashMap<u64, Accepting> {
    let all = Holders::of(inodes.clone());
    let holders = |inode| all.of_socket(inode).iter();
    let parents: HashSet<u32> = inodes.clone().flat_map(holders).map(|held| held.parent).collect();
    let accepting = |inode| {
        let choice = choice::worker(all.of_socket(inode))?;
        let worker = choice.held.holder.process;
        let is_parent = !choice.held.polls && parents.contains(&worker.pid);
        let holders = holders(inode).map(|held| held.holder.process).collect();
        Some((inode, Accepting { holders, worker, guessed: choice.guessed, is_parent }))
    };
    inodes.filter_map(accepting).collect()
}

fn found_group(netns: u64, members: &[BoundSocket], holders: &Holders) -> FoundGroup {
    let first = &members[0].place;
    FoundGroup {
        identity: GroupIdentity { netns, protocol: first.protocol, address: first.address },
        v6only: first.v6only,
        device: first.device.clone(),
        uid: first.uid,
        sockets: members
            .iter()
            .map(|socket| found_socket(socket, holders.of_socket(socket.inode)))
            .collect(),
    }
}

fn found_socket(socket: &BoundSocket, holders: &[HeldBy]) -> FoundSocket {
    let choice = choice::worker(holders);
    FoundSocket {
        inode: socket.inode,
        cookie: socket.cookie,
        queue: socket.queue,
        holders: holders.iter().map(|held| held.holder.clone()).collect(),
        worker: choice.map(|choice| choice.held.holder.clone()),
        guessed: choice.is_some_and(|choice| choice.guessed),
        problem: if socket.mptcp {
            Some(Problem::Mptcp)
        } else {
            holders.is_empty().then_some(Problem::Unseen)
        },
    }
}
