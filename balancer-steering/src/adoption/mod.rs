//! Steers servers that are already running, unmodified: takes their sockets into a group of ours,
//! and keeps up with those that come and go.
//!
//! | step | module |
//! | --- | --- |
//! | which of its sockets can be steered, and what is said of the others | `taking` |
//! | a member's socket, borrowed, checked, seated and given back | `adopt` |
//! | who has come and gone since (pure) | `changes` |
//! | which process accepts from a member's socket | [`settling`] |

mod adopt;
mod changes;
pub mod settling;
mod taking;

use std::{collections::HashMap, time::Instant};

use crate::error::{Context as _, Result, bail};

use self::{
    changes::Changes,
    settling::Pace,
    taking::{LEFT_OUT, Taken, who},
};
use crate::{
    discovery::{BoundSocket, FoundGroup, FoundSocket, GroupWatcher},
    group::{GroupIdentity, GroupSpec},
    steering::{Logs, SocketMaps, Steering, Store},
};

/// How often a newcomer whose holder is not seen is looked for.
const ATTEMPTS: u32 = 5;

/// Whether a process with this command name that appears later is let in; if not, why.
pub type Admits = Box<dyn Fn(&str) -> Result<(), String>>;

/// A group of other programs' sockets.
pub struct Attachment {
    steering: Steering,
    group_watcher: GroupWatcher,
    identity: GroupIdentity,
    admits: Admits,
    /// Sockets that came and were not taken, by cookie, with how often it was tried.
    set_aside: HashMap<u64, u32>,
    pace: Pace,
    /// The last look came to nothing, or there was none: servers may have come while it attached, or before
    /// a takeover.
    overdue: bool,
}

/// What a look at the group came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// Lines for the user: who came, who went.
    Lines(Vec<String>),
    /// Another command gave it back to the kernel.
    GivenBack,
}

impl Attachment {
    /// Seats every member of a group that was found and can be steered, pins it, and attaches the
    /// policy: all of it, or nothing. `replace` takes the group from a program that has it.
    ///
    /// # Errors
    /// If no member can be steered, or another program has the group.
    pub fn begin(
        store: &Store,
        name: &str,
        group: &GroupSpec,
        found: &FoundGroup,
        group_watcher: GroupWatcher,
        replace: bool,
        admits: Admits,
    ) -> Result<(Self, Logs)> {
        let mut taken = Taken::default();
        let begun = Self::attached(store, name, group, found, &group_watcher, replace, &mut taken);
        let (steering, logs) = if taken.detached {
            begun.with_context(|| {
                format!(
                    "the program that steered {} was detached and cannot be put back, so the \
                     kernel's hash chooses there now",
                    group.identity
                )
            })?
        } else {
            begun?
        };
        let mut attachment = Self::of(steering, group.identity, group_watcher, admits);
        attachment.set_aside = taken.set_aside;
        Ok((attachment, logs))
    }

    fn attached(
        store: &Store,
        name: &str,
        group: &GroupSpec,
        found: &FoundGroup,
        group_watcher: &GroupWatcher,
        replace: bool,
        taken: &mut Taken,
    ) -> Result<(Steering, Logs)> {
        let fill =
            |steering: &mut Steering| taking::take(steering, found, group_watcher, replace, taken);
        let (steering, logs) = Steering::create(store, name, group, fill)?;
        let Some(lock) = steering.lock()? else {
            bail!("the group {name} was given back to the kernel just now; nothing is steered");
        };
        let attached = match steering.attach_through_any() {
            Ok(true) => Ok(()),
            Ok(false) => Err(taking::all_gone(found)),
            Err(error) => Err(error),
        };
        if attached.is_err() {
            store.remove(name)?;
        }
        drop(lock);
        attached?;
        Ok((steering, logs))
    }

    /// Of a group that is steered already; the first look finds who came and went meanwhile.
    pub fn of(
        steering: Steering,
        identity: GroupIdentity,
        group_watcher: GroupWatcher,
        admits: Admits,
    ) -> Self {
        let (set_aside, pace) = (HashMap::new(), Pace::new());
        Self { steering, group_watcher, identity, admits, set_aside, pace, overdue: true }
    }

    /// Its steering.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// As [`Attachment::steering`], to change it.
    pub fn steering_mut(&mut self) -> &mut Steering {
        &mut self.steering
    }

    /// Whether a socket has come that could not be taken in yet, and may be at the next look.
    pub fn is_unsure(&self) -> bool {
        self.set_aside.values().any(|tries| *tries < ATTEMPTS)
    }

    /// Looks who has come and gone, and keeps the group up with it.
    ///
    /// # Errors
    /// If sockets cannot be listed, the group's state cannot be changed, or another process has the
    /// group's lock: then another look is due soon.
    pub fn look(&mut self) -> Result<Look> {
        let look = self.try_look();
        self.overdue = look.is_err();
        look
    }

    /// Whether a look is due already, because the last failed, or there was none.
    pub fn is_overdue(&self) -> bool {
        self.overdue
    }

    fn try_look(&mut self) -> Result<Look> {
        let sockets = self.group_watcher.sockets()?;
        self.set_aside.retain(|cookie, _| sockets.iter().any(|socket| socket.cookie == *cookie));
        // Most triggers are somebody else's.
        if self.changes(&sockets)?.is_nothing() {
            return Ok(Look::Lines(Vec::new()));
        }
        let Some(_lock) = self.steering.try_lock()? else { return Ok(Look::GivenBack) };
        let mut lines = Vec::new();
        let changes = self.changes(&sockets)?;
        for member in &changes.gone {
            self.steering.vacate(member.slot)?;
            let (pid, slot) = (member.worker.pid, member.slot);
            lines.push(format!("PID {pid} is gone from slot {slot}"));
        }
        let found = if changes.come.is_empty() {
            Vec::new()
        } else {
            self.group_watcher.found(&changes.come)
        };
        let mut adopted = false;
        for socket in &found {
            let line = self.take_in(socket)?;
            adopted |= matches!(line, TakenIn::Adopted(_));
            lines.extend(line.into_line());
        }
        self.steering.publish()?;
        self.steering.join_service()?;
        // Where the kernel's group was gone, so was the program.
        if adopted {
            self.pace.unsettled = Some(Instant::now());
            self.steering.attach_through_any()?;
        }
        if !changes.gone.is_empty() && !self.steering.has_sockets()? {
            let identity = self.identity;
            lines.push(format!("nobody serves {identity} any more; waiting for who comes back"));
        }
        Ok(Look::Lines(lines))
    }

    fn changes<'a>(&self, sockets: &'a [BoundSocket]) -> Result<Changes<'a>> {
        let mut members = Vec::new();
        let mut again = None;
        for member in self.steering.members()? {
            let lists = |all: &[BoundSocket]| all.iter().any(|s| s.cookie == member.cookie);
            let seated = self.steering.is_seated(&member)?;
            let mut listed = lists(sockets);
            // It may have connected (UDP), or moved to a device, and keep its slot; or others have gone
            // in the middle of the listing, which then leaves some out.
            if seated && !listed {
                if again.is_none() {
                    again = Some(self.group_watcher.sockets()?);
                }
                listed = again.as_deref().is_some_and(lists);
            }
            members.push((member, seated && listed));
        }
        let ignored = |cookie| self.set_aside.get(&cookie).is_some_and(|tries| *tries >= ATTEMPTS);
        Ok(changes::between(members, sockets, ignored))
    }

    /// Lets a newcomer in, or says why not.
    fn take_in(&mut self, socket: &FoundSocket) -> Result<TakenIn> {
        let who = who(socket);
        if let Some(worker) = &socket.worker
            && let Err(reason) = (self.admits)(&worker.command)
        {
            self.set_aside.insert(socket.cookie, ATTEMPTS);
            return Ok(TakenIn::HeldBack(format!(
                "{who} serves {} too and is held back, {reason}: it gets no more than what is left \
                 to the kernel's hash",
                self.identity
            )));
        }
        match adopt::adopt(&mut self.steering, &self.identity, socket) {
            Ok(slot) => Ok(TakenIn::Adopted(format!("{who} is steered too, in slot {slot}"))),
            Err(mut error) => {
                error.explain(socket, SocketMaps::read);
                let tries = self.set_aside.entry(socket.cookie).or_default();
                *tries = if error.may_pass() { *tries + 1 } else { ATTEMPTS };
                let told = *tries >= ATTEMPTS;
                Ok(if told {
                    TakenIn::HeldBack(format!("{who} is not steered: {error}; {LEFT_OUT}"))
                } else {
                    TakenIn::Not
                })
            }
        }
    }

    /// As [`Steering::grow`].
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn grow(&mut self) -> Result<()> {
        self.steering.grow()
    }

    /// Gives the group back to the kernel's hash, unless that was done already.
    ///
    /// # Errors
    /// Returns an error if the program cannot be detached; then the pins stay.
    pub fn end(self, store: &Store) -> Result<()> {
        match self.steering.lock()? {
            Some(_lock) => self.steering.detach(store),
            None => Ok(()),
        }
    }
}

/// What became of a newcomer.
enum TakenIn {
    Adopted(String),
    HeldBack(String),
    Not,
}

impl TakenIn {
    fn into_line(self) -> Option<String> {
        match self {
            Self::Adopted(line) | Self::HeldBack(line) => Some(line),
            Self::Not => None,
        }
    }
}
