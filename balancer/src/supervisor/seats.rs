//! Where workers get their sockets: one of their own in a slot of a steered group, or all the same.
//!
//! Whatever changes the group takes its lock, which the caller has. A group that was given back to the
//! kernel stays so: workers are started and end, and what another agent does with their sockets is its own.

use std::os::fd::{AsFd as _, OwnedFd};

use super::Change;
use anyhow::{Context as _, Result, bail};
use balancer_common::record::SlotState;
use balancer_steering::{
    discovery::Bound,
    error::Error,
    group::{GroupIdentity, Protocol},
    process::Identity,
    socket,
    steering::{Lock, Steering, Watch},
    weight::Weight,
};
use socket2::Socket;

/// The sockets of the workers.
pub enum Seats {
    /// One each, and which of them gets a connection is steered.
    Steered {
        /// By whom.
        steering: Box<Steering>,
        /// Where they listen.
        identity: GroupIdentity,
        /// A socket that is bound there already.
        first: Option<Socket>,
    },
    /// One that listens, for all: the baseline of a comparison.
    Shared(Socket),
}

/// A place for a worker.
pub struct Seat {
    /// Its socket, listening.
    pub socket: OwnedFd,
    /// Its slot.
    pub slot: u32,
    /// Where it may say its load, in a group that goes by that.
    pub report: Option<OwnedFd>,
}

impl Seats {
    /// The group's name; none is pinned where the socket is shared.
    pub fn group(&self) -> &str {
        match self {
            Self::Steered { steering, .. } => steering.name(),
            Self::Shared(_) => "shared",
        }
    }

    /// Where the workers listen; `None` if they share a socket.
    pub fn identity(&self) -> Option<GroupIdentity> {
        match self {
            Self::Steered { identity, .. } => Some(*identity),
            Self::Shared(_) => None,
        }
    }

    /// The group's lock; none if the group was given back, or the socket is shared.
    ///
    /// # Errors
    /// If another process has it, or it cannot be had.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        let Self::Steered { steering, .. } = self else { return Ok(None) };
        Ok(steering.try_lock()?)
    }

    /// Notes how many workers there are to be. Waits for the lock: nothing else is to be done yet.
    ///
    /// # Errors
    /// If the group's state cannot be changed.
    pub fn note_workers(&mut self, count: u32) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        let _lock = steering.lock()?;
        Ok(steering.tell(|state| state.workers = count)?)
    }

    /// A listening socket for worker `index`, and its slot. It gets no connection by policy yet.
    ///
    /// # Errors
    /// Returns an error if none can be had, or the group's state cannot be changed.
    pub fn take(&mut self, index: usize, weight: Weight) -> Result<Seat> {
        let (steering, GroupIdentity { protocol, address, .. }, first) = match self {
            Self::Steered { steering, identity, first } => (steering, *identity, first),
            Self::Shared(socket) => {
                let socket = socket.try_clone().context("cannot duplicate a socket")?;
                let slot = u32::try_from(index)?;
                return Ok(Seat { socket: socket.into(), slot, report: None });
            }
        };
        let socket = match first.take() {
            Some(socket) => socket,
            None => socket::bind_as(protocol, address)?,
        };
        let steered = steering.is_pinned();
        // The first of a group gets the program before it listens, so that no connection is chosen
        // without it. Another would not be let in with one of its own (`inet_csk_bind_conflict`).
        if steered && !steering.has_sockets()? {
            steering.attach(socket.as_fd())?;
        }
        // And its slot, so that its first connection is counted.
        let slot = steering.reserve(socket.as_fd(), weight)?;
        let mut seated = || -> Result<_> {
            if protocol == Protocol::Tcp {
                socket::listen(&socket, address)?;
            }
            if steered {
                // Should the last other member have gone meanwhile, so has the program.
                steering.attach(socket.as_fd())?;
                steering.register(slot, socket.as_fd())?;
            }
            Ok(steering.report_descriptor(slot)?)
        };
        match seated() {
            Ok(report) => Ok(Seat { socket: socket.into(), slot, report }),
            Err(error) => {
                steering.set_state(slot, SlotState::Vacant)?;
                Err(error)
            }
        }
    }

    /// A slot for a socket that a worker bound for itself. It gets no connection by policy yet.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses the socket, or the group's state cannot be changed.
    pub fn adopt(&mut self, bound: &Bound, weight: Weight) -> Result<u32> {
        let Self::Steered { steering, .. } = self else {
            bail!("workers that share a socket bind none")
        };
        let socket = bound.socket.as_fd();
        let slot = if steering.is_pinned() {
            // It may be the group's first.
            steering.attach(socket)?;
            steering.seat(socket, weight)?
        } else {
            steering.reserve(socket, weight)?
        };
        steering.set_worker(slot, bound.holder)?;
        Ok(slot)
    }

    /// Notes who has a slot.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn occupy(&mut self, slot: u32, worker: Identity) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        Ok(steering.set_worker(slot, worker)?)
    }

    /// Lets a slot be chosen instead of another, in one step and with its weight and its clients; the
    /// other is about to leave. Where there is no other, with that weight.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn hand_over(&mut self, from: Option<u32>, to: u32, weight: Weight) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        Ok(steering.change_locked(|change| {
            change.agent().leaving = from;
            let before = change.members().into_iter().find(|member| Some(member.slot) == from);
            change.set_weight(to, before.map_or(weight, |member| member.weight));
            change.set_state(to, SlotState::Live);
            if let Some(from) = from {
                change.swap_keys(from, to);
                change.set_state(from, SlotState::Leaving);
            }
            Ok::<_, Error>(())
        })?)
    }

    /// Takes slots out of the table, in one step, whose workers are to finish.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn retire(&mut self, slots: &[u32]) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        Ok(steering.change_locked(|change| {
            slots.iter().for_each(|&slot| change.set_state(slot, SlotState::Leaving));
            Ok::<_, Error>(())
        })?)
    }

    /// Undoes a [`hand_over`](Self::hand_over): the slot that it was to is vacant.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn give_back(&mut self, from: u32, to: Option<u32>) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        Ok(steering.change_locked(|change| {
            change.agent().leaving = None;
            if let Some(to) = to {
                change.swap_keys(from, to);
            }
            change.set_state(from, SlotState::Live);
            Ok::<_, Error>(())
        })?)
    }

    /// Has the programs choose among the workers that are left.
    ///
    /// # Errors
    /// If the group's state cannot be changed.
    pub fn publish(&mut self) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        Ok(steering.publish()?)
    }

    /// Watches what a worker whose slot is drained has left before it may end.
    ///
    /// # Errors
    /// Returns an error if its connections are not counted.
    pub fn watch(&self, slot: Option<u32>) -> Result<Watch> {
        let Self::Steered { steering, .. } = self else {
            bail!("workers that share a socket are not drained")
        };
        Ok(steering.watch(slot.as_slice())?)
    }

    /// Tells those who wait for a reload, or come after this agent.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub(super) fn tell(&mut self, changes: &[Change]) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        Ok(steering.tell(|state| changes.iter().for_each(|change| change(state)))?)
    }

    /// Lets a slot be chosen, from the next `publish` on.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn open(&mut self, slot: u32, publish: bool) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        steering.set_state(slot, SlotState::Live)?;
        if publish { Ok(steering.publish()?) } else { Ok(()) }
    }

    /// Takes a slot back, from the next `publish` on; the weight that its member had in the end: it may
    /// have been changed by `balancer weight`.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed.
    pub fn vacate(&mut self, slot: u32) -> Result<Option<Weight>> {
        let Self::Steered { steering, .. } = self else { return Ok(None) };
        let member = steering.members()?.into_iter().find(|member| member.slot == slot);
        steering.set_state(slot, SlotState::Vacant)?;
        if steering.agent_state()?.leaving == Some(slot) {
            steering.tell(|state| state.leaving = None)?;
        }
        Ok(member.map(|member| member.weight))
    }
}
