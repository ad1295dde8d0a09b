//! A group whose sockets the test holds itself, for looking at programs from close by.

use std::{
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
};

use balancer_common::record::SlotState;
use balancer_steering::{
    flows::Flows,
    group::{GroupIdentity, GroupSpec, Protocol, own_netns},
    options::PolicyOptions,
    policy::Policy,
    policy_spec::PolicySpec,
    process::Identity,
    snapshot::Snapshot,
    socket,
    steering::{Steering, Store},
    weight::Weight,
};
use socket2::{Domain, Socket, Type};

use crate::host::Host;

/// Members that accept nobody are not passed over for that.
pub const PATIENT: PolicyOptions =
    PolicyOptions { avoid_stalled: None, ..PolicySpec::plain(Policy::Kernel).options };

/// All policies that steer.
pub const POLICIES: [Policy; 9] = [
    Policy::Hash,
    Policy::RoundRobin,
    Policy::Weighted,
    Policy::Random,
    Policy::Sticky,
    Policy::Cpu,
    Policy::LeastConnections,
    Policy::TwoChoices,
    Policy::ShortestQueue,
];

/// A steered group without workers.
pub struct TestGroup {
    /// Its steering.
    pub steering: Steering,
    /// Its sockets, by slot; dropping one is what the death of its worker does.
    pub sockets: Vec<Option<Socket>>,
    /// Where they are bound.
    pub address: SocketAddr,
}

impl TestGroup {
    /// A member for each weight, all live, on a port of the kernel's choosing. Nobody need accept in time.
    pub fn new(host: &Host, protocol: Protocol, policy: Policy, weights: &[u16]) -> Self {
        Self::spec(host, protocol, policy, PATIENT, weights)
    }

    /// As [`TestGroup::new`], with options.
    pub fn spec(
        host: &Host,
        protocol: Protocol,
        policy: Policy,
        options: PolicyOptions,
        weights: &[u16],
    ) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::bound(host, protocol, address, policy, options, weights)
    }

    /// As [`TestGroup::spec`], at another address.
    pub fn bound(
        host: &Host,
        protocol: Protocol,
        address: SocketAddr,
        policy: Policy,
        options: PolicyOptions,
        weights: &[u16],
    ) -> Self {
        Self::flowing(host, protocol, address, policy, options, None, weights)
    }

    /// As [`TestGroup::bound`], with flows.
    pub fn flowing(
        host: &Host,
        protocol: Protocol,
        address: SocketAddr,
        policy: Policy,
        options: PolicyOptions,
        flows: Option<Flows>,
        weights: &[u16],
    ) -> Self {
        let first = bind(protocol, address);
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let group = GroupSpec {
            identity: GroupIdentity { netns: own_netns().unwrap(), protocol, address },
            policy,
            agent: Identity { pid: 0, start: 0 },
            log_level: 0,
            adopted: false,
            replaced: false,
            counted: true,
            flows,
            index: 0,
            service: None,
            options,
        };
        let store = Store::prepare(host.bpffs()).unwrap();
        let (mut steering, _) = Steering::create(&store, "test", &group, |_| Ok(())).unwrap();
        let mut sockets = Vec::new();
        let mut first = Some(first);
        for &weight in weights {
            let socket = first.take().unwrap_or_else(|| bind(protocol, address));
            if protocol == Protocol::Tcp {
                socket::listen(&socket, address).unwrap();
            }
            socket.set_nonblocking(true).unwrap();
            let slot = steering.seat(socket.as_fd(), Weight::from_record(weight)).unwrap();
            steering.set_worker(slot, Identity::of(std::process::id()).unwrap()).unwrap();
            steering.set_state(slot, SlotState::Live).unwrap();
            assert_eq!(slot as usize, sockets.len());
            sockets.push(Some(socket));
        }
        steering.publish().unwrap();
        steering.attach(sockets[0].as_ref().unwrap().as_fd()).unwrap();
        Self { steering, sockets, address }
    }

    /// Makes connections that nobody accepts; they stay open as long as they are kept.
    pub fn connect(&self, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(self.address).unwrap()).collect()
    }

    /// What the programs counted.
    pub fn snapshot(&self) -> Snapshot {
        self.steering.snapshot().unwrap()
    }

    /// Times each slot was chosen.
    pub fn selected(&self) -> Vec<u64> {
        self.snapshot().members.iter().map(|member| member.tally.selected).collect()
    }

    /// Connections that count as open on each slot.
    pub fn open(&self) -> Vec<u64> {
        self.snapshot().members.iter().map(|member| member.open.unwrap()).collect()
    }

    /// Makes a listening socket a member, live at once; its slot.
    pub fn seat(&mut self, socket: &Socket) -> usize {
        let slot = self.steering.seat(socket.as_fd(), Weight::ONE).unwrap();
        self.steering.set_state(slot, SlotState::Live).unwrap();
        self.steering.publish().unwrap();
        slot as usize
    }

    /// Connections that wait in a slot's queue, taken out of it.
    pub fn accept_all(&self, slot: usize) -> Vec<Socket> {
        let socket = self.sockets[slot].as_ref().unwrap();
        std::iter::from_fn(|| socket.accept().ok()).map(|(stream, _)| stream).collect()
    }
}

fn bind(protocol: Protocol, address: SocketAddr) -> Socket {
    match protocol {
        Protocol::Tcp => socket::bind(address).unwrap(),
        Protocol::Udp => {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket
        }
    }
}
