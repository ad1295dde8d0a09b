//! What is measured: listeners of this process, steered as any group is; and one that is not.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::AddAssign,
    os::fd::AsFd as _,
    path::Path,
    process,
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer::{
    address::default_name,
    group::{Group, GroupIdentity, Protocol, own_netns},
    policy::Policy,
    process::Identity,
    socket,
    steering::{DEFAULT_BPFFS, Runs, Steering, Store},
    tuned::TunedPolicy,
    tuning::Tuning,
    weight::Weight,
};
use balancer_ebpf::record::SlotState;
use serde::Serialize;
use socket2::Socket;

use crate::load::Load;

/// Those of the listeners; where they are more, over and over.
pub const WEIGHTS: [u16; 4] = [5, 3, 2, 1];

/// The listeners and their steering.
pub struct Bed {
    steering: Steering,
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
    /// How long the load took.
    pub elapsed: Duration,
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
    /// Opens so many listeners and seats them.
    ///
    /// # Errors
    /// Where the kernel refuses one of the steps.
    pub fn make(members: usize) -> Result<Self> {
        let members = Listeners::open(members)?;
        let ourselves = Identity::of(process::id()).context("cannot read /proc/self/stat")?;
        let address = members.address;
        let group = Group {
            identity: GroupIdentity { netns: own_netns()?, protocol: Protocol::Tcp, address },
            policy: Policy::Kernel,
            agent: ourselves,
            log_level: 0,
            adopted: false,
            replaced: false,
            tuning: Tuning::default(),
        };
        let store = Store::prepare(Path::new(DEFAULT_BPFFS))?;
        let name = default_name(Protocol::Tcp, address);
        let (mut steering, _logs) = Steering::create(&store, &name, &group, |_| Ok(()))?;
        for (listener, weight) in members.sockets.iter().zip(WEIGHTS.iter().cycle()) {
            socket::listen(listener, address)?;
            let slot = steering.seat(listener.as_fd(), Weight::from_record(*weight))?;
            steering.set_worker(slot, ourselves)?;
            steering.set_state(slot, SlotState::Live)?;
        }
        let stranger = Listeners::open(1)?;
        socket::listen(&stranger.sockets[0], stranger.address)?;
        Ok(Self { steering, members, stranger })
    }

    /// Puts a policy under load from the given CPUs.
    ///
    /// # Errors
    /// Where the policy cannot be switched to, or a connection fails.
    pub fn load(
        &mut self,
        policy: TunedPolicy,
        cpus: &[usize],
        connections: u64,
    ) -> Result<Sample> {
        self.load_to(To::Members, policy, cpus, connections)
    }

    /// As [`Bed::load`], or beside the group whose policy is in force.
    ///
    /// # Errors
    /// As [`Bed::load`].
    pub fn load_to(
        &mut self,
        to: To,
        policy: TunedPolicy,
        cpus: &[usize],
        connections: u64,
    ) -> Result<Sample> {
        self.steering.set_policy(policy.policy, policy.tuning)?;
        let (runs, tracker) = (self.steering.runs()?, self.steering.tracker_runs()?);
        let counted = self.counted()?;
        let Listeners { address, sockets } = match to {
            To::Members => &self.members,
            To::Stranger => &self.stranger,
        };
        let load = Load { address: *address, listeners: sockets };
        let elapsed = load.run(cpus, connections)?;
        let counted_after = self.counted()?;
        Ok(Sample {
            elapsed,
            runs: since(runs, self.steering.runs()?),
            tracker: since(tracker, self.steering.tracker_runs()?),
            counted: Counted {
                selected: counted_after.selected - counted.selected,
                fallback: counted_after.fallback - counted.fallback,
            },
        })
    }

    fn counted(&self) -> Result<Counted> {
        let snapshot = self.steering.snapshot()?;
        Ok(Counted { selected: snapshot.total().selected, fallback: snapshot.fallback })
    }
}

impl Listeners {
    /// Binds so many to a port of their own.
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
        }
        Ok(Self { address, sockets })
    }
}

fn since(before: Runs, after: Runs) -> Runs {
    Runs { count: after.count - before.count, time: after.time - before.time }
}
