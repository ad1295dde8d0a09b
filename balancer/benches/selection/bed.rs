//! What is measured: listeners of this process, steered as any group is; and one that is not.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::{AddAssign, Sub},
    os::fd::AsFd as _,
    path::Path,
    process,
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer_common::record::SlotState;
use balancer_steering::{
    group::{GroupSpec, Protocol, default_name},
    policy_spec::PolicySpec,
    process::Identity,
    service::ServiceName,
    socket,
    steering::{DEFAULT_BPFFS, Runs, Steering, Store, join_service},
    weight::Weight,
};
use serde::Serialize;
use socket2::Socket;

use crate::{
    group,
    load::{Load, Work},
};

/// Those of the listeners; where they are more, over and over.
pub const WEIGHTS: [u16; 4] = [5, 3, 2, 1];

/// The listeners and their steering.
pub struct Bed {
    store: Store,
    /// None while the kernel's hash chooses and nothing of ours is there, nor anything counted.
    steering: Option<Steering>,
    /// How many groups are one service with it, itself included.
    in_service: usize,
    /// Other groups beside it.
    others: Vec<(Steering, Listeners)>,
    members: Listeners,
    stranger: Listeners,
}

/// Sockets that listen at an address.
struct Listeners {
    address: SocketAddr,
    sockets: Vec<Socket>,
}

/// What a load did to a policy.
pub struct Sample {
    /// Runs of the policy's program that the kernel measured meanwhile, if it measures.
    pub runs: Runs,
    /// Runs of what counts connections, likewise.
    pub tracker: Runs,
    /// Choices that the program counted meanwhile.
    pub counted: Counted,
}

/// Choices, as the programs count them.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Counted {
    /// Those of a slot.
    pub selected: u64,
    /// Those left to the kernel's hash.
    pub fallback: u64,
}

impl Sub for Counted {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            selected: self.selected - before.selected,
            fallback: self.fallback - before.fallback,
        }
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.selected += other.selected;
        self.fallback += other.fallback;
    }
}

/// Whom a load is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The members of the group.
    Members,
    /// A listener that is none of them.
    Stranger,
}

impl Bed {
    /// Opens so many listeners, which are not steered yet.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses one of the steps.
    pub fn make(members: usize) -> Result<Self> {
        let (members, stranger) = (Listeners::open(members)?, Listeners::open(1)?);
        let store = Store::prepare(Path::new(DEFAULT_BPFFS))?;
        Ok(Self { store, steering: None, in_service: 1, others: Vec::new(), members, stranger })
    }

    /// As [`Bed::make`]; the members' process has as many in each of so many groups, which are one service.
    ///
    /// # Errors
    /// As [`Bed::make`].
    pub fn in_service(members: usize, groups: usize) -> Result<Self> {
        Ok(Self { in_service: groups, ..Self::make(members)? })
    }

    /// Steers the members from now on.
    fn steer(&mut self) -> Result<&mut Steering> {
        if self.steering.is_none() {
            let service = if self.in_service > 1 { Some("bench".parse()?) } else { None };
            self.steering = Some(steer(&self.store, &self.members, service)?);
            for _ in 1..self.in_service {
                let listeners = Listeners::open(self.members.sockets.len())?;
                self.others.push((steer(&self.store, &listeners, service)?, listeners));
            }
            if let Some(service) = service {
                join_service(&self.store, service)?;
            }
        }
        self.steering.as_mut().context("nothing is steered")
    }

    /// Steers as many groups, of which the members are one; with none, nothing of balancer's is on the
    /// machine, nor is anything counted.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn steer_groups(&mut self, groups: usize) -> Result<()> {
        while self.others.len() + 1 > groups.max(1) {
            let Some((steering, _)) = self.others.pop() else { break };
            steering.detach(&self.store)?;
        }
        if groups == 0 {
            return self
                .steering
                .take()
                .map_or(Ok(()), |steering| Ok(steering.detach(&self.store)?));
        }
        self.steer()?;
        while self.others.len() + 1 < groups {
            let listeners = Listeners::open(1)?;
            self.others.push((steer(&self.store, &listeners, None)?, listeners));
        }
        Ok(())
    }

    /// Puts listeners under load, whatever steers them; how long it took.
    ///
    /// # Errors
    /// Returns an error if a connection fails.
    pub fn time(&self, to: To, work: Work, cpus: &[usize], connections: u64) -> Result<Duration> {
        self.listeners(to).load(work).run(cpus, connections)
    }

    /// Switches the policy of the members, which are steered.
    ///
    /// # Errors
    /// Returns an error if the policy cannot be switched to.
    pub fn set_policy(&mut self, policy: PolicySpec) -> Result<()> {
        Ok(self.steer()?.set_policy(policy.policy, policy.options)?)
    }

    /// Choices that were counted so far.
    ///
    /// # Errors
    /// Returns an error if they cannot be read.
    pub fn counted(&mut self) -> Result<Counted> {
        counted(self.steer()?)
    }

    fn listeners(&self, to: To) -> &Listeners {
        match to {
            To::Members => &self.members,
            To::Stranger => &self.stranger,
        }
    }

    /// Puts a policy under load from the given CPUs.
    ///
    /// # Errors
    /// Returns an error if the policy cannot be switched to, or a connection fails.
    pub fn load(&mut self, policy: PolicySpec, cpus: &[usize], connections: u64) -> Result<Sample> {
        self.load_to(To::Members, policy, cpus, connections)
    }

    /// As [`Bed::load`], or beside the group whose policy is in force.
    ///
    /// # Errors
    /// As [`Bed::load`].
    pub fn load_to(
        &mut self,
        to: To,
        policy: PolicySpec,
        cpus: &[usize],
        connections: u64,
    ) -> Result<Sample> {
        let steering = self.steer()?;
        steering.set_policy(policy.policy, policy.options)?;
        let (runs, tracker) = (steering.runs()?, steering.tracker_runs()?);
        let counted = counted(steering)?;
        self.time(to, Work::Nothing, cpus, connections)?;
        let steering = self.steer()?;
        Ok(Sample {
            runs: since(runs, steering.runs()?),
            tracker: since(tracker, steering.tracker_runs()?),
            counted: self::counted(steering)? - counted,
        })
    }
}

fn counted(steering: &Steering) -> Result<Counted> {
    let snapshot = steering.snapshot()?;
    Ok(Counted { selected: snapshot.total().selected, fallback: snapshot.fallback })
}

/// A group of these listeners.
fn steer(store: &Store, members: &Listeners, service: Option<ServiceName>) -> Result<Steering> {
    let ourselves = Identity::of(process::id()).context("cannot read /proc/self/stat")?;
    let address = members.address;
    let group = GroupSpec { service, ..group::at(address)? };
    let name = default_name(Protocol::Tcp, address);
    let (mut steering, _logs) = Steering::create(store, &name, &group, |_| Ok(()))?;
    for (listener, weight) in members.sockets.iter().zip(WEIGHTS.iter().cycle()) {
        let slot = steering.seat(listener.as_fd(), Weight::from_record(*weight))?;
        steering.set_worker(slot, ourselves)?;
        steering.set_state(slot, SlotState::Live)?;
    }
    Ok(steering)
}

impl Listeners {
    /// Lets so many listen on a port of their own.
    fn open(count: usize) -> Result<Self> {
        let first = socket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = first.local_addr().context("cannot read a socket's address")?;
        let address = address.as_socket().context("a TCP socket has no address")?;
        let mut sockets = vec![first];
        while sockets.len() < count {
            sockets.push(socket::bind(address)?);
        }
        for socket in &sockets {
            socket.set_nonblocking(true).context("cannot set O_NONBLOCK")?;
            socket::listen(socket, address)?;
        }
        Ok(Self { address, sockets })
    }

    fn load(&self, work: Work) -> Load<'_> {
        Load { address: self.address, listeners: &self.sockets, work }
    }
}

fn since(before: Runs, after: Runs) -> Runs {
    Runs { count: after.count - before.count, time: after.time - before.time }
}
