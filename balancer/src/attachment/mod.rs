//! Steers servers that are already running, unmodified: takes their sockets into a group of ours,
//! and keeps up with those that come and go.
//!
//! | step | module |
//! | --- | --- |
//! | which of the groups that were found is meant (pure) | [`target`] |
//! | a member's socket, borrowed, checked, seated and given back | `adopt` |
//! | when to look again | [`occasions`] |
//! | who has come and gone since (pure) | `changes` |
//! | whether one that came is let in (pure) | [`admission`] |
//! | who accepts from a member's socket | `settling` |

pub mod admission;
mod adopt;
mod changes;
pub mod occasions;
mod settling;
pub mod target;

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};

use self::{admission::Admission, adopt::NotAdopted, changes::Changes};
use crate::{
    discovery::{BoundSocket, FoundGroup, FoundSocket, Lookout},
    group::{Group, GroupIdentity},
    steering::{Logs, Steering, Store},
};

/// How long the array of a group that was given back a moment ago may take to let go of its sockets:
/// an RCU grace period or two.
const LETTING_GO: Duration = Duration::from_secs(2);

/// How often a newcomer whose holder is not seen is looked for.
const ATTEMPTS: u32 = 5;

/// A group of other programs' sockets.
pub struct Attachment {
    steering: Steering,
    lookout: Lookout,
    identity: GroupIdentity,
    admission: Admission,
    /// Sockets that came and were not taken, by cookie, with how often it was tried.
    set_aside: HashMap<u64, u32>,
    /// When somebody was let in whose worker may not be there yet.
    unsettled: Option<Instant>,
    /// When all were last seen to hold their sockets.
    held: Instant,
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
    /// Seats every member of a group that was found, pins it, and attaches the policy: all of it, or
    /// nothing. `replace` takes the group from a program that has it.
    ///
    /// # Errors
    /// Where a member cannot be steered, or none is left to be.
    pub fn begin(
        store: &Store,
        name: &str,
        group: &Group,
        found: &FoundGroup,
        lookout: Lookout,
        replace: bool,
        admission: Admission,
    ) -> Result<(Self, Logs)> {
        let fill = |steering: &mut Steering| seat_all(steering, found, &lookout, replace);
        let (steering, logs) = Steering::create(store, name, group, fill)?;
        let Some(_lock) = steering.lock()? else {
            bail!("the group {name} was given back to the kernel just now; nothing is steered");
        };
        let attached = match steering.attach_through_any() {
            Ok(true) => Ok(()),
            Ok(false) => Err(all_gone(&group.identity)),
            Err(error) => Err(error),
        };
        if attached.is_err() {
            store.remove(name)?;
        }
        attached?;
        Ok((Self::of(steering, group.identity, lookout, admission), logs))
    }

    /// Of a group that is steered already; the first look finds who came and went meanwhile.
    pub fn of(
        steering: Steering,
        identity: GroupIdentity,
        lookout: Lookout,
        admission: Admission,
    ) -> Self {
        let (set_aside, held) = (HashMap::new(), Instant::now());
        let unsettled = Some(held);
        Self { steering, lookout, identity, admission, set_aside, unsettled, held }
    }

    /// Its steering.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Looks who has come and gone, and keeps the group up with it. `likely` are processes that may
    /// hold what has come: to ask them first saves looking at all.
    ///
    /// # Errors
    /// Where sockets cannot be listed, or the group's state cannot be changed.
    pub fn look(&mut self, likely: &[u32]) -> Result<Look> {
        let sockets = self.lookout.sockets()?;
        self.set_aside.retain(|cookie, _| sockets.iter().any(|socket| socket.cookie == *cookie));
        // Most occasions are somebody else's.
        if self.changes(&sockets)?.is_nothing() {
            return Ok(Look::Lines(Vec::new()));
        }
        let Some(_lock) = self.steering.lock()? else { return Ok(Look::GivenBack) };
        let mut lines = Vec::new();
        let changes = self.changes(&sockets)?;
        for member in &changes.gone {
            self.steering.vacate(member.slot)?;
            let (pid, slot) = (member.worker.pid, member.slot);
            lines.push(format!("PID {pid} is gone from slot {slot}"));
        }
        let mut found = self.lookout.found_among(likely, &changes.come);
        let seen = |cookie| found.iter().any(|socket: &FoundSocket| socket.cookie == cookie);
        let unseen: Vec<_> = changes.come.iter().copied().filter(|s| !seen(s.cookie)).collect();
        if !unseen.is_empty() {
            found.extend(self.lookout.found(&unseen));
        }
        let mut adopted = false;
        for socket in &found {
            let line = self.take_in(socket)?;
            adopted |= matches!(line, TakenIn::Adopted(_));
            lines.extend(line.into_line());
        }
        self.steering.publish()?;
        // Where the kernel's group was gone, so was the program.
        if adopted {
            self.unsettled = Some(Instant::now());
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
                    again = Some(self.lookout.sockets()?);
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
            && let Err(reason) = self.admission.admits(&worker.command)
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
            Err(error) => {
                let tries = self.set_aside.entry(socket.cookie).or_default();
                *tries = if error.may_pass() { *tries + 1 } else { ATTEMPTS };
                let told = *tries >= ATTEMPTS;
                Ok(if told {
                    TakenIn::HeldBack(format!("{who} is not steered: {error}"))
                } else {
                    TakenIn::Not
                })
            }
        }
    }

    /// As [`Steering::grow`].
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn grow(&mut self) -> Result<()> {
        self.steering.grow()
    }

    /// Gives the group back to the kernel's hash, unless that was done already.
    ///
    /// # Errors
    /// Where the program cannot be detached; then the pins stay.
    pub fn end(self, store: &Store) -> Result<()> {
        match self.steering.lock()? {
            Some(_lock) => self.steering.take_down(store),
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

/// Seats all that are still there when it is their turn, and publishes their table.
fn seat_all(
    steering: &mut Steering,
    found: &FoundGroup,
    lookout: &Lookout,
    replace: bool,
) -> Result<()> {
    let identity = &found.identity;
    if replace {
        displace(steering, found)?;
    }
    let patience = Instant::now() + LETTING_GO;
    let mut guessed = Vec::new();
    let mut seated = false;
    for socket in &found.sockets {
        match adopt_patiently(steering, identity, socket, patience) {
            Ok(_) => {
                seated = true;
                guessed.extend(socket.worker.iter().filter(|_| socket.guessed));
            }
            Err(NotAdopted::Gone) => tracing::info!("{} ended meanwhile", who(socket)),
            Err(NotAdopted::Taken) => bail!("{}", taken(identity, replace)),
            Err(error) => {
                let there = lookout.sockets()?.iter().any(|other| other.cookie == socket.cookie);
                if there {
                    bail!("{identity} cannot be steered: {}: {error}", who(socket));
                }
                tracing::info!("{} ended meanwhile", who(socket));
            }
        }
    }
    if !seated {
        return Err(all_gone(identity));
    }
    if !guessed.is_empty() {
        let pids: Vec<String> =
            guessed.iter().map(|holder| holder.process.pid.to_string()).collect();
        tracing::warn!(
            "several processes hold the same sockets and none is seen to poll them; that {} accept \
             from them is a guess, which only the PIDs shown depend on",
            pids.join(", ")
        );
    }
    steering.publish()
}

fn taken(identity: &GroupIdentity, replace: bool) -> String {
    if replace {
        format!(
            "{identity} cannot be taken: the program that steered it was detached, but its socket \
             array is still held; end the process that holds it, or remove its pin (`bpftool map \
             list` shows it as reuseport_sockarray)"
        )
    } else {
        format!(
            "{identity} is steered by another program: its sockets are in that one's socket array; \
             `balancer attach --replace` takes it, and what was there cannot be put back"
        )
    }
}

fn adopt_patiently(
    steering: &mut Steering,
    identity: &GroupIdentity,
    socket: &FoundSocket,
    patience: Instant,
) -> Result<u32, NotAdopted> {
    loop {
        match adopt::adopt(steering, identity, socket) {
            Err(NotAdopted::Taken) if Instant::now() < patience => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Takes another's program off the group, through the first member that can be had.
fn displace(steering: &mut Steering, found: &FoundGroup) -> Result<()> {
    for socket in &found.sockets {
        let Ok((borrowed, _)) = adopt::borrow(&found.identity, socket) else { continue };
        if steering.displace(std::os::fd::AsFd::as_fd(&borrowed))? {
            tracing::warn!(
                "took {} from the program that had it; it cannot be put back",
                found.identity
            );
        }
        break;
    }
    Ok(())
}

/// `PID 7 (nginx)`
fn who(socket: &FoundSocket) -> String {
    match &socket.worker {
        Some(worker) => format!("PID {} ({})", worker.process.pid, worker.command),
        None => format!("the socket with inode {}", socket.inode),
    }
}

fn all_gone(identity: &GroupIdentity) -> anyhow::Error {
    anyhow!(
        "all that served {identity} ended while they were being adopted; start them, then attach \
         again"
    )
}
