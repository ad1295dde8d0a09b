//! What is measured: four listeners of this process, steered as any group is.

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
    group::{Group, GroupIdentity, Protocol, own_netns},
    policy::Policy,
    process::Identity,
    socket,
    steering::{DEFAULT_BPFFS, Runs, Steering, Store},
    tuning::Tuning,
    weight::Weight,
};
use balancer_ebpf::record::SlotState;
use serde::Serialize;
use socket2::Socket;

use crate::load::Load;

/// A listener each.
pub const WEIGHTS: [u16; 4] = [5, 3, 2, 1];

const GROUP: &str = "selection";

/// The listeners and their steering.
pub struct Bed {
    steering: Steering,
    listeners: Vec<Socket>,
    address: SocketAddr,
}

/// What a load did to a policy.
pub struct Sample {
    /// How long the load took.
    pub elapsed: Duration,
    /// Runs of the policy's program that the kernel measured meanwhile, if it measures.
    pub runs: Runs,
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

/// Whether it chooses, and counts what it chose: neither the kernel itself nor a reference.
pub fn steers(policy: &Policy) -> bool {
    !matches!(policy, Policy::Kernel | Policy::Noop | Policy::Fixed)
}

impl Bed {
    /// Opens the listeners and seats them.
    ///
    /// # Errors
    /// Where the kernel refuses one of the steps.
    pub fn make() -> Result<Self> {
        let mut listeners = vec![socket::bind((Ipv4Addr::LOCALHOST, 0).into())?];
        let address = listeners[0].local_addr().context("cannot read a socket's address")?;
        let address = address.as_socket().context("a TCP socket has no address")?;
        while listeners.len() < WEIGHTS.len() {
            listeners.push(socket::bind(address)?);
        }
        let ourselves = Identity::of(process::id()).context("cannot read /proc/self/stat")?;
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
        let (mut steering, _logs) = Steering::create(&store, GROUP, &group, |_| Ok(()))?;
        for (listener, weight) in listeners.iter().zip(WEIGHTS) {
            listener.set_nonblocking(true).context("cannot set O_NONBLOCK")?;
            socket::listen(listener, address)?;
            let slot = steering.seat(listener.as_fd(), Weight::from_record(weight))?;
            steering.set_worker(slot, ourselves)?;
            steering.set_state(slot, SlotState::Live)?;
        }
        Ok(Self { steering, listeners, address })
    }

    /// Puts a policy under load from the given CPUs.
    ///
    /// # Errors
    /// Where the policy cannot be switched to, or a connection fails.
    pub fn load(&mut self, policy: Policy, cpus: &[usize], connections: u64) -> Result<Sample> {
        self.steering.set_policy(policy, Tuning::default())?;
        let (runs, counted) = (self.steering.runs()?, self.counted()?);
        let load = Load { address: self.address, listeners: &self.listeners };
        let elapsed = load.run(cpus, connections)?;
        let (runs_after, counted_after) = (self.steering.runs()?, self.counted()?);
        Ok(Sample {
            elapsed,
            runs: Runs { count: runs_after.count - runs.count, time: runs_after.time - runs.time },
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
