//! Who accepts from a member's socket: not always the process that opened it, and not always the same.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::Attachment;
use crate::{policy::Shares, process, steering::Member};

/// How long a server may take from `listen` until the process that accepts is there.
const SETTLING: Duration = Duration::from_millis(500);

/// How often is looked whether members still accept: a process may leave its socket to another and
/// live on, as the workers of nginx do until their last connection is closed.
const AGAIN: Duration = Duration::from_secs(10);

impl Attachment {
    /// Finds who accepts now where that has changed: a socket may be opened by one process and
    /// served by another, and outlive both. False where the group was given back.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn settle(&mut self) -> Result<bool> {
        let Some(_lock) = self.steering.lock()? else { return Ok(false) };
        let members = self.steering.members()?;
        let rested = self.unsettled.is_some_and(|since| since.elapsed() > SETTLING);
        let all_accept = self.do_all_accept(&members);
        if !rested && all_accept {
            return Ok(true);
        }
        self.unsettled = self.unsettled.filter(|_| !rested);
        let sockets = self.lookout.sockets()?;
        let mut settled = false;
        for found in self.lookout.found(&sockets.iter().collect::<Vec<_>>()) {
            let member = members.iter().find(|member| member.cookie == found.cookie);
            let (Some(member), Some(worker)) = (member, &found.worker) else { continue };
            let holds = found.holders.iter().any(|holder| holder.process == member.worker);
            // A guess is no better than another.
            if worker.process != member.worker && !(holds && found.guessed) {
                self.steering.set_worker(member.slot, worker.process)?;
                settled = true;
            }
        }
        // It may be pinned to another CPU.
        if settled && self.steering.group()?.policy.shares() == Shares::ByCpu {
            self.steering.publish()?;
        }
        Ok(true)
    }

    /// Whether the worker of each lives and, where that is due to be looked at, has its socket.
    fn do_all_accept(&mut self, members: &[Member]) -> bool {
        let look_closer = self.held.elapsed() > AGAIN;
        if look_closer {
            self.held = Instant::now();
        }
        let mut held = HashMap::new();
        let mut holds = |member: &Member| {
            let pid = member.worker.pid;
            let sockets = held.entry(pid).or_insert_with(|| process::sockets(pid));
            sockets.contains(&member.inode)
        };
        members.iter().all(|member| member.worker.is_alive() && (!look_closer || holds(member)))
    }
}
