//! What a worker that gets no new connections still has to do.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result};

use super::{
    diag::{self, BoundSocket, Connection, Life},
    family,
    netns::{Netns, NetnsArgument},
};
use crate::{
    group::{GroupIdentity, Protocol},
    process::Identity,
};

/// A worker and its sockets in a group.
#[derive(Clone, Debug)]
pub struct Drained {
    /// Who it is.
    pub worker: Identity,
    /// Cookies of its sockets.
    pub cookies: Vec<u64>,
    /// PIDs of the group's other workers: what they have open is theirs, though they be its children.
    pub others: HashSet<u32>,
}

/// Clients whose handshake with a group was under way when it was looked at. The kernel does not
/// tell with which member, so each counts until it is accepted or given up.
#[derive(Clone, Debug, Default)]
pub struct Arriving(HashSet<SocketAddr>);

/// What is left of a worker's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Accepted and not closed yet.
    pub open: usize,
    /// Waiting to be accepted; with UDP, bytes waiting to be read.
    pub queued: usize,
    /// Not accepted yet by whichever member they come to.
    pub arriving: usize,
}

impl Remaining {
    /// Whether nothing is left.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { open, queued, arriving } = self;
        write!(f, "{open} open, {queued} in its queue")?;
        if *arriving > 0 { write!(f, ", {arriving} on their way") } else { Ok(()) }
    }
}

/// Whose handshake is under way. Asked for once the table without the worker is in force: by then
/// each connection that the table before gave it is at least half-open.
///
/// # Errors
/// Where the kernel does not list the group's connections.
pub fn arriving(group: &GroupIdentity, drained: &Drained) -> Result<Arriving> {
    let (_, connections) = look(group, drained.worker)?;
    let half_open = connections.iter().filter(|connection| connection.life == Life::HalfOpen);
    Ok(Arriving(half_open.map(|connection| connection.remote).collect()))
}

/// Counts what a worker has left; nothing, where it has ended.
///
/// # Errors
/// As [`arriving`].
pub fn remaining(
    group: &GroupIdentity,
    drained: &Drained,
    arriving: &Arriving,
) -> Result<Remaining> {
    // In the order in which a connection moves on, so that none is missed between two looks: the
    // queue, the connections, and who has them open.
    let (sockets, connections) = look(group, drained.worker)?;
    let family = family::of(drained.worker.pid, &drained.others);
    let held: HashSet<u64> = family::sockets(&family).into_keys().collect();
    Ok(count(&sockets, &connections, drained, arriving, |inode| held.contains(&inode)))
}

pub(super) fn look(
    group: &GroupIdentity,
    worker: Identity,
) -> Result<(Vec<BoundSocket>, Vec<Connection>)> {
    if !worker.is_alive() {
        return Ok(Default::default());
    }
    let netns = Netns::open(&NetnsArgument::Process(worker.pid))?;
    let port = group.address.port();
    let looked = netns.run(|| {
        let sockets = diag::sockets_on(group.protocol, port)?;
        let connections = match group.protocol {
            Protocol::Tcp => diag::connections(port)?,
            Protocol::Udp => Vec::new(),
        };
        Ok((sockets, connections))
    });
    let (sockets, mut connections) =
        looked.with_context(|| format!("cannot list the connections of {group}"))?;
    connections.retain(|connection| is_of(connection.local.ip(), group.address.ip()));
    Ok((sockets, connections))
}

/// Whether a connection at `local` may be one of a group at `address`. Where a group of one address
/// stands beside one of all, and one process serves both, the latter's worker is said to have the
/// connections of both: it waits longer than it must, never shorter.
fn is_of(local: IpAddr, address: IpAddr) -> bool {
    address.is_unspecified() || local == address.to_canonical()
}

fn count(
    sockets: &[BoundSocket],
    connections: &[Connection],
    drained: &Drained,
    arriving: &Arriving,
    holds: impl Fn(u64) -> bool,
) -> Remaining {
    let mut remaining = Remaining::default();
    for socket in sockets.iter().filter(|socket| drained.cookies.contains(&socket.cookie)) {
        remaining.queued += socket.queue as usize;
    }
    for connection in connections {
        match connection.life {
            Life::Accepted(inode) | Life::Finishing(inode) if holds(inode) => remaining.open += 1,
            // Queued ones too: it may have come to the queue after that was looked at.
            Life::HalfOpen | Life::Queued if arriving.0.contains(&connection.remote) => {
                remaining.arriving += 1;
            }
            _ => {}
        }
    }
    remaining
}

#[cfg(test)]
mod tests {
    use super::{super::diag::Place, *};

    fn connection(client: u16, life: Life) -> Connection {
        let local = "127.0.0.1:80".parse().unwrap();
        Connection { local, remote: ([127, 0, 0, 1], client).into(), life }
    }

    fn listener(cookie: u64, queue: u32) -> BoundSocket {
        let place = Place {
            protocol: Protocol::Tcp,
            address: "127.0.0.1:80".parse().unwrap(),
            v6only: false,
            device: None,
            uid: 0,
        };
        BoundSocket { place, inode: cookie, cookie, queue, mptcp: false }
    }

    fn counted(connections: &[Connection], arriving: &[u16]) -> Remaining {
        let worker = Identity { pid: 7, start: 0 };
        let drained = Drained { worker, cookies: vec![1, 2], others: HashSet::new() };
        let sockets = [listener(1, 3), listener(2, 4), listener(9, 100)];
        let arriving = arriving.iter().map(|&port| ([127, 0, 0, 1], port).into()).collect();
        count(&sockets, connections, &drained, &Arriving(arriving), |inode| inode < 100)
    }

    #[test]
    fn connections_and_queues_of_others_do_not_count() {
        let connections = [
            connection(1, Life::Accepted(50)),
            connection(2, Life::Accepted(500)),
            connection(3, Life::Closed),
            connection(4, Life::Queued),
            connection(5, Life::HalfOpen),
        ];
        let expected = Remaining { open: 1, queued: 7, arriving: 0 };
        assert_eq!(counted(&connections, &[]), expected);
    }

    #[test]
    fn who_was_on_the_way_counts_until_somebody_accepts_it() {
        for (life, arriving, open) in [
            (Life::HalfOpen, 1, 0),
            (Life::Queued, 1, 0),
            (Life::Accepted(500), 0, 0),
            (Life::Accepted(50), 0, 1),
            (Life::Closed, 0, 0),
        ] {
            let expected = Remaining { open, queued: 7, arriving };
            assert_eq!(counted(&[connection(5, life)], &[5, 6]), expected, "{life:?}");
        }
    }

    #[test]
    fn a_group_of_one_address_has_no_connection_of_another() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(is_of(ip("127.0.0.1"), ip("127.0.0.1")));
        assert!(is_of(ip("127.0.0.1"), ip("::ffff:127.0.0.1")));
        assert!(is_of(ip("127.0.0.1"), ip("0.0.0.0")) && is_of(ip("127.0.0.1"), ip("::")));
        assert!(!is_of(ip("127.0.0.2"), ip("127.0.0.1")));
    }
}
