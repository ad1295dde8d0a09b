//! Where workers get their sockets: one of their own in a slot of a steered group, or all the same.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use balancer_ebpf::record::SlotState;
use socket2::Socket;

use crate::{
    agent::AgentState,
    discovery::{Bound, Drained},
    group::GroupIdentity,
    process::Identity,
    socket,
    steering::{Lock, Steering},
    weight::Weight,
};

/// The sockets of the workers.
pub enum Seats {
    /// One each, and which of them gets a connection is steered.
    Steered {
        /// By whom.
        steering: Box<Steering>,
        /// Where they listen.
        address: SocketAddr,
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
    /// Keeps others from a group with a member that is nobody yet.
    pub lock: Option<Lock>,
}

impl Seats {
    /// The group's name; none is pinned where the socket is shared.
    pub fn group(&self) -> &str {
        match self {
            Self::Steered { steering, .. } => steering.name(),
            Self::Shared(_) => "shared",
        }
    }

    /// Where the workers listen.
    ///
    /// # Errors
    /// Where they share a socket.
    pub fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::Steered { address, .. } => Ok(*address),
            Self::Shared(_) => bail!("workers that share a socket bind none"),
        }
    }

    /// A listening socket for worker `index`, and its slot. It gets no connection by policy yet.
    ///
    /// # Errors
    /// Where none can be had, or the group's state cannot be changed.
    pub fn take(&mut self, index: usize, weight: Weight) -> Result<Seat> {
        let (steering, address, first) = match self {
            Self::Steered { steering, address, first } => (steering, *address, first),
            Self::Shared(socket) => {
                let socket = socket.try_clone().context("cannot duplicate a socket")?;
                let slot = u32::try_from(index)?;
                return Ok(Seat { socket: socket.into(), slot, report: None, lock: None });
            }
        };
        let socket = match first.take() {
            Some(socket) => socket,
            None => socket::bind(address)?,
        };
        let lock = steering.lock()?;
        // The first of a group gets the program before it listens, so that no connection is chosen
        // without it. Another would not be let in with one of its own (`inet_csk_bind_conflict`).
        if !steering.has_sockets()? {
            steering.attach(socket.as_fd())?;
        }
        socket::listen(&socket, address)?;
        // Should the last other member have gone meanwhile, so has the program.
        steering.attach(socket.as_fd())?;
        let slot = steering.seat(socket.as_fd(), weight)?;
        let report = steering.report_descriptor()?;
        Ok(Seat { socket: socket.into(), slot, report, lock })
    }

    /// A slot for a socket that a worker bound for itself. It gets no connection by policy yet.
    ///
    /// # Errors
    /// Where the kernel refuses the socket, or the group's state cannot be changed.
    pub fn adopt(&mut self, bound: Bound, weight: Weight) -> Result<u32> {
        let Self::Steered { steering, .. } = self else {
            bail!("workers that share a socket bind none")
        };
        let _lock = steering.lock()?;
        // It may be the group's first.
        steering.attach(bound.socket.as_fd())?;
        let slot = steering.seat(bound.socket.as_fd(), weight)?;
        steering.set_worker(slot, bound.holder)?;
        Ok(slot)
    }

    /// Notes who has a slot, while its seat's lock is held.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn occupy(&mut self, slot: u32, worker: Identity) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        steering.set_worker(slot, worker)
    }

    /// Lets a slot be chosen instead of another, in one step and with its weight and its clients; the
    /// other is about to leave. Where there is no other, with that weight.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn hand_over(&mut self, from: Option<u32>, to: u32, weight: Weight) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        let _lock = steering.lock()?;
        // First, so that whoever takes over while both are live knows which is one too many.
        steering.tell(|state| state.leaving = from)?;
        let before = steering.members()?.into_iter().find(|member| Some(member.slot) == from);
        steering.set_weight(to, before.map_or(weight, |member| member.weight))?;
        steering.set_state(to, SlotState::Live)?;
        if let Some(from) = from {
            steering.swap_keys(from, to)?;
            steering.set_state(from, SlotState::Leaving)?;
        }
        steering.publish()
    }

    /// Undoes a [`hand_over`](Self::hand_over): the slot that it was to is vacant.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn give_back(&mut self, from: u32, to: Option<u32>) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        let _lock = steering.lock()?;
        if let Some(to) = to {
            steering.swap_keys(from, to)?;
        }
        steering.set_state(from, SlotState::Live)?;
        steering.publish()?;
        steering.tell(|state| state.leaving = None)
    }

    /// What a worker whose slot is drained has to do before it may end.
    ///
    /// # Errors
    /// Where the group's state cannot be read.
    pub fn drained(&self, slot: Option<u32>, worker: Identity) -> Result<(GroupIdentity, Drained)> {
        let Self::Steered { steering, .. } = self else {
            bail!("workers that share a socket are not drained")
        };
        let (own, others): (Vec<_>, Vec<_>) =
            steering.members()?.into_iter().partition(|member| Some(member.slot) == slot);
        let drained = Drained {
            worker,
            cookies: own.iter().map(|member| member.cookie).collect(),
            others: others.iter().map(|member| member.worker.pid).collect(),
        };
        Ok((steering.group()?.identity, drained))
    }

    /// Tells those who wait for a reload, or come after this agent.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn tell(&mut self, change: impl FnOnce(&mut AgentState)) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        let _lock = steering.lock()?;
        steering.tell(change)
    }

    /// Lets a slot be chosen, from the next `publish` on.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn open(&mut self, slot: u32, publish: bool) -> Result<()> {
        let Self::Steered { steering, .. } = self else { return Ok(()) };
        let _lock = steering.lock()?;
        steering.set_state(slot, SlotState::Live)?;
        if publish { steering.publish() } else { Ok(()) }
    }

    /// Takes a slot back, and tells the weight that its member had in the end: it may have been
    /// changed by `balancer weight`.
    ///
    /// # Errors
    /// Where the group's state cannot be changed.
    pub fn vacate(&mut self, slot: u32, publish: bool) -> Result<Option<Weight>> {
        let Self::Steered { steering, .. } = self else { return Ok(None) };
        let _lock = steering.lock()?;
        let member = steering.members()?.into_iter().find(|member| member.slot == slot);
        steering.set_state(slot, SlotState::Vacant)?;
        if steering.agent_state()?.leaving == Some(slot) {
            steering.tell(|state| state.leaving = None)?;
        }
        if publish {
            steering.publish()?;
        }
        Ok(member.map(|member| member.weight))
    }
}
