//! Who has which of a group's connections.

use std::collections::HashMap;

use anyhow::Result;

use super::{diag::Life, family, remaining::look};
use crate::{group::GroupIdentity, process::Identity};

/// A worker and the cookie of its socket in a group.
#[derive(Clone, Copy, Debug)]
pub struct Holding {
    /// Who it is.
    pub worker: Identity,
    /// Its socket.
    pub cookie: u64,
}

/// A connection that a process has open, and has not closed its side of.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Who has it: the worker, or a descendant of it.
    pub process: Identity,
    /// Its descriptor there.
    pub fd: i32,
    /// Its inode.
    pub inode: u64,
}

/// The connections of a worker.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Those it has open.
    pub held: Vec<Held>,
    /// How many wait at its socket to be accepted.
    pub queued: u64,
}

/// The group's connections, by worker, in the order asked for.
///
/// # Errors
/// Where the kernel does not list them.
pub fn held(group: &GroupIdentity, workers: &[Holding]) -> Result<Vec<Connections>> {
    let Some(living) = workers.iter().find(|holding| holding.worker.is_alive()) else {
        return Ok(vec![Connections::default(); workers.len()]);
    };
    let (sockets, connections) = look(group, living.worker)?;
    let queues: HashMap<u64, u32> =
        sockets.iter().map(|socket| (socket.cookie, socket.queue)).collect();
    let pids: Vec<u32> = workers.iter().map(|holding| holding.worker.pid).collect();
    let families = family::of_each(&pids);
    let of = |(holding, family): (&Holding, Vec<u32>)| {
        let fds = family::sockets(&family);
        let held = connections.iter().filter_map(|connection| match connection.life {
            Life::Accepted(inode) => {
                let (process, fd) = *fds.get(&inode)?;
                Some(Held { process, fd, inode })
            }
            _ => None,
        });
        let queued = queues.get(&holding.cookie).copied().unwrap_or_default().into();
        Connections { held: held.collect(), queued }
    };
    Ok(workers.iter().zip(families).map(of).collect())
}
