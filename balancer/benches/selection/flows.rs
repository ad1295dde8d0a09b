//! What flows cost: nanoseconds for a datagram, by the kernel's own statistics of the programs, and what is
//! left of the exchanges a second that the kernel's own hash serves. On one CPU.

use std::{net::UdpSocket, os::fd::AsFd as _, path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use balancer_common::record::SlotState;
use balancer_steering::{
    affinity,
    flows::Flows,
    group::{GroupIdentity, GroupSpec, Protocol},
    policy::Policy,
    steering::{DEFAULT_BPFFS, Runs, Steering, Store, measure_runs},
    weight::Weight,
};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use crate::{
    cost::nanoseconds,
    group, progress,
    statistics::{Spread, rotation},
};

const MEMBERS: usize = 4;
const CLIENTS: usize = 64;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The kernel's hash, no program.
    Kernel,
    /// Slot 0, by the kernel's helper alone.
    Fixed,
    /// Round robin over datagrams.
    Datagrams,
    /// Round robin over flows, all of which are known.
    Known,
    /// Round robin over flows, each of which is new.
    New,
}

const KINDS: [Kind; 5] = [Kind::Kernel, Kind::Fixed, Kind::Datagrams, Kind::Known, Kind::New];

/// One of them.
#[derive(Serialize)]
pub struct Row {
    /// Which.
    pub kind: Kind,
    /// Nanoseconds of a run beyond one of `fixed` in the same round.
    pub over_fixed: Option<Spread>,
    /// Exchanges a second beside those of the kernel's hash in the same round.
    pub of_kernel: Option<Spread>,
}

/// Measures all of them.
///
/// # Errors
/// Returns an error if a datagram is lost, or the kernel does not measure.
pub fn measure(rounds: usize, datagrams: u64) -> Result<Vec<Row>> {
    let cpus = affinity::cpus()?;
    affinity::pin_to(*cpus.first().context("no CPU")?)?;
    let mut beds = Vec::new();
    for kind in KINDS {
        beds.push(Bed::make(kind)?);
    }
    let (mut runs, mut times) = (vec![Vec::new(); KINDS.len()], vec![Vec::new(); KINDS.len()]);
    for round in 0..rounds {
        progress::show(format_args!("flows: {round} of {rounds} rounds"));
        for index in rotation(KINDS.len(), round) {
            times[index].push(beds[index].exchange(datagrams)?);
            let _measuring = measure_runs()?;
            runs[index].push(beds[index].choose(datagrams)?);
        }
    }
    progress::clear();
    let at = |kind: Kind| KINDS.iter().position(|&k| k == kind).unwrap_or_default();
    let (kernel, fixed) = (times[at(Kind::Kernel)].clone(), runs[at(Kind::Fixed)].clone());
    let rows = KINDS.into_iter().zip(runs).zip(times);
    Ok(rows
        .map(|((kind, runs), times)| Row {
            kind,
            over_fixed: (!matches!(kind, Kind::Kernel | Kind::Fixed))
                .then(|| Spread::of_pairs(&runs, &fixed, |ours, fixed| ours - fixed)),
            // An exchange with a client that is new each time is another one.
            of_kernel: (!matches!(kind, Kind::Kernel | Kind::New))
                .then(|| Spread::of_pairs(&kernel, &times, |kernel, ours| kernel / ours)),
        })
        .collect())
}

struct Bed {
    kind: Kind,
    steering: Steering,
    members: Vec<Socket>,
    clients: Vec<UdpSocket>,
}

impl Bed {
    fn make(kind: Kind) -> Result<Self> {
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            members.push(socket);
        }
        members[0].bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        let address = members[0].local_addr()?.as_socket().context("no address")?;
        for member in &members[1..] {
            member.bind(&address.into())?;
        }
        let flowing = matches!(kind, Kind::Known | Kind::New);
        let spec = group::at(address)?;
        let spec = GroupSpec {
            identity: GroupIdentity { protocol: Protocol::Udp, ..spec.identity },
            policy: match kind {
                Kind::Kernel => Policy::Kernel,
                Kind::Fixed => Policy::Fixed,
                _ => Policy::RoundRobin,
            },
            flows: flowing.then(Flows::default),
            ..spec
        };
        let store = Store::prepare(Path::new(DEFAULT_BPFFS))?;
        let name = format!("flows-{}", address.port());
        let (mut steering, _) = Steering::create(&store, &name, &spec, |_| Ok(()))?;
        for member in &members {
            let slot = steering.seat(member.as_fd(), Weight::ONE)?;
            steering.set_state(slot, SlotState::Live)?;
        }
        steering.publish()?;
        if spec.policy.steers() || kind == Kind::Fixed {
            steering.attach(members[0].as_fd())?;
        }
        let client = || -> Result<UdpSocket> {
            let client = UdpSocket::bind("127.0.0.1:0")?;
            client.connect(address)?;
            Ok(client)
        };
        let clients = (0..CLIENTS).map(|_| client()).collect::<Result<_>>()?;
        Ok(Self { kind, steering, members, clients })
    }

    /// Sends as many, and answers each; seconds.
    fn exchange(&self, datagrams: u64) -> Result<f64> {
        let began = Instant::now();
        for _ in 0..datagrams / CLIENTS as u64 {
            for client in &self.clients {
                client.send(b"?")?;
            }
            ensure!(self.receive(true)? == CLIENTS, "a datagram was lost");
            for client in &self.clients {
                client.recv(&mut [0; 4])?;
            }
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Sends as many; nanoseconds that the program took for one.
    fn choose(&mut self, datagrams: u64) -> Result<f64> {
        let before = self.steering.runs()?;
        for _ in 0..datagrams / CLIENTS as u64 {
            if self.kind == Kind::New {
                let address = self.clients[0].peer_addr()?;
                for client in &mut self.clients {
                    *client = UdpSocket::bind("127.0.0.1:0")?;
                    client.connect(address)?;
                }
            }
            for client in &self.clients {
                client.send(b"?")?;
            }
            self.receive(false)?;
        }
        let after = self.steering.runs()?;
        let (count, time) = (after.count - before.count, after.time.saturating_sub(before.time));
        Ok(if count == 0 { 0.0 } else { nanoseconds(Runs { count, time }) })
    }

    /// Takes what has come, and answers it; how many.
    fn receive(&self, answers: bool) -> Result<usize> {
        let mut count = 0;
        for member in &self.members {
            let mut octets = [std::mem::MaybeUninit::uninit(); 4];
            while let Ok((_, client)) = member.recv_from(&mut octets) {
                count += 1;
                if answers {
                    member.send_to(b"!", &client)?;
                }
            }
        }
        Ok(count)
    }
}
