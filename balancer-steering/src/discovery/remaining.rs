//! What waits at the sockets of a group, and which of its handshakes are under way: by the kernel's own
//! listing, without a look at any process.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::BorrowedFd,
};

use crate::error::{Context as _, Result};

use super::{
    activity::{self, Activity},
    diag::{self, Connection},
    netns::{Netns, NetnsArgument},
};
use crate::{
    group::{GroupIdentity, Protocol, own_netns},
    process::Identity,
};

/// Cookies of connections.
pub type Cookies = HashSet<u64>;

/// How many connections wait at each socket of a group's port, by the socket's cookie; for UDP, octets.
/// Nothing if the group is in another network namespace than ours, and all of these workers have ended.
///
/// # Errors
/// Returns an error if the kernel does not list them.
pub fn queues(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
) -> Result<HashMap<u64, u32>> {
    let backlogs = backlogs(group, workers)?;
    Ok(backlogs.into_iter().map(|(cookie, backlog)| (cookie, backlog.waiting)).collect())
}

/// What waits at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// TCP: connections that wait to be accepted. UDP: octets that wait to be read, as the kernel accounts
    /// for them.
    pub waiting: u32,
    /// TCP: how many connections may wait: the backlog of `listen`, as the kernel has bounded it.
    pub limit: Option<u32>,
}

/// As [`queues`], with their limits.
///
/// # Errors
/// As [`queues`].
pub fn backlogs(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
) -> Result<HashMap<u64, Backlog>> {
    inside(group, workers, |port| {
        let backlog = |socket: &diag::BoundSocket| Backlog {
            waiting: socket.queue,
            limit: (group.protocol == Protocol::Tcp).then_some(socket.limit),
        };
        let sockets = diag::sockets_on(group.protocol, port)?;
        Ok(sockets.iter().map(|socket| (socket.cookie, backlog(socket))).collect())
    })
}

/// The connections of a group that are open; none for UDP.
///
/// # Errors
/// As [`queues`].
pub fn connections(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
) -> Result<Vec<Connection>> {
    of_group(group, workers, diag::connections)
}

/// Connections of a group whose handshake is under way. The kernel does not tell with which member.
///
/// # Errors
/// As [`queues`].
pub fn arriving(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
) -> Result<Cookies> {
    let connections = of_group(group, workers, diag::half_open)?;
    Ok(connections.iter().map(|connection| connection.cookie).collect())
}

/// The connections of a group that are open, and what they are about. `places` is the map of the sockets'
/// places, and `epoch` that of the request tracker, 0 if there is none.
///
/// # Errors
/// As [`queues`].
pub(crate) fn activities(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
    places: BorrowedFd<'_>,
    epoch: u32,
) -> Result<Vec<Activity>> {
    let look = |port| activity::activities(port, places, epoch);
    let mut activities = inside(group, workers, look)?;
    activities.retain(|activity| is_at(group, &activity.connection));
    Ok(activities)
}

fn of_group(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
    look: impl FnOnce(u16) -> io::Result<Vec<Connection>> + Send,
) -> Result<Vec<Connection>> {
    if group.protocol == Protocol::Udp {
        return Ok(Vec::new());
    }
    let mut connections = inside(group, workers, look)?;
    connections.retain(|connection| is_at(group, connection));
    Ok(connections)
}

fn is_at(group: &GroupIdentity, connection: &Connection) -> bool {
    let address = group.address.ip();
    address.is_unspecified() || connection.local.ip().to_canonical() == address.to_canonical()
}

/// Looks in the group's network namespace: our own, or that which one of the workers is in.
fn inside<T: Default + Send>(
    group: &GroupIdentity,
    workers: impl IntoIterator<Item = Identity>,
    look: impl FnOnce(u16) -> io::Result<T> + Send,
) -> Result<T> {
    let port = group.address.port();
    let cannot = || format!("cannot list the connections of {group}");
    if own_netns().is_ok_and(|own| own == group.netns) {
        return look(port).with_context(cannot);
    }
    let is_there = |worker: Identity| {
        let netns = Netns::open(&NetnsArgument::Process(worker.pid)).ok()?;
        (worker.is_alive() && netns.inode() == group.netns).then_some(netns)
    };
    match workers.into_iter().find_map(is_there) {
        Some(netns) => netns.run(|| look(port)).with_context(cannot),
        None => Ok(T::default()),
    }
}
