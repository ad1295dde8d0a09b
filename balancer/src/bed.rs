//! The workers of a scenario: a steered group, and beside it as many that share one socket. They
//! stay for all trials; only the policy changes, as it would in a group that is in use.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use balancer_lab::{
    contender::Contender,
    scenario::{Fault, Scenario},
    workers::{Bed, Event, Workers},
};
use balancer_steering::{
    group::{GroupIdentity, GroupSpec, Protocol, own_netns},
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
    socket,
    steering::{Steering, Store},
    weight::Weight,
};
use procfs::process::Process;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::{
    idle_grace::IdleGrace,
    supervisor::{Ending, Job, Notice, Seats, Supervisor, WorkerPlan},
};

/// How long workers may take to start, or to end when told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Workers that wait on sockets in one of the two ways.
pub struct Side {
    supervisor: Supervisor,
    address: SocketAddr,
    workers: usize,
    /// Whose a slot is or was.
    slots: BTreeMap<u32, usize>,
    /// CPU time of the predecessors of each worker.
    spent: Vec<Duration>,
}

/// A steered group, and beside it workers that share one socket.
pub struct Supervised {
    steered: Side,
    shared: Side,
}

impl Bed for Supervised {
    type Side = Side;

    async fn start(scenario: &Scenario, bpffs: &Path) -> Result<Self> {
        let steered = Side::start(scenario, steered(bpffs)?, bpffs, &[]).await?;
        let shared = Side::start(scenario, shared()?, bpffs, &["--shared"]).await?;
        Ok(Self { steered, shared })
    }

    fn side(&mut self, contender: Contender) -> Result<&mut Side> {
        let Contender::Policy(spec) = contender else { return Ok(&mut self.shared) };
        let steering = self.steered.supervisor.steering()?;
        steering.set_policy(spec.policy, spec.options)?;
        Ok(&mut self.steered)
    }

    async fn stop(mut self) {
        for side in [&mut self.steered, &mut self.shared] {
            side.supervisor.stop();
            let gone = async { while side.notice().await != Notice::AllGone {} };
            if timeout(PATIENCE, gone).await.is_err() {
                side.supervisor.signal(Signal::KILL);
            }
        }
    }
}

impl Side {
    async fn start(
        scenario: &Scenario,
        (seats, address): (Seats, SocketAddr),
        bpffs: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let plans = (0..scenario.workers).map(|worker| {
            let times = match scenario.fault {
                Fault::Slow { factor } if worker == 0 => factor,
                _ => 1,
            };
            let work = ["--work".to_owned(), times.to_string()];
            let arguments = arguments.iter().map(|&argument| argument.to_owned());
            let weight = scenario.weights.get(worker).copied().unwrap_or(1);
            WorkerPlan {
                weight: Weight::from_record(weight),
                job: Job::BuiltIn(arguments.chain(work).collect()),
                cpu: None,
                user: None,
                ready_within: PATIENCE,
                drain_within: PATIENCE,
                idle_grace: IdleGrace(None),
                ending: Ending::default(),
                restarts: None,
            }
        });
        let supervisor = Supervisor::start(seats, bpffs.to_owned(), plans.collect())?;
        let mut side = Self {
            supervisor,
            address,
            workers: scenario.workers,
            slots: BTreeMap::new(),
            spent: vec![Duration::ZERO; scenario.workers],
        };
        let ready = async {
            loop {
                match side.notice().await {
                    Notice::AllReady => return anyhow::Ok(()),
                    Notice::NeverReady(how) => bail!("{how}"),
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, ready).await.context("the workers take too long to start")??;
        Ok(side)
    }

    /// Waits for the next thing that workers do, restarting them meanwhile.
    async fn notice(&mut self) -> Notice {
        let notice = self.supervisor.next().await;
        self.slots.extend(self.supervisor.places().map(|(worker, slot, _)| (slot, worker)));
        notice
    }
}

impl Workers for Side {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn count(&self) -> usize {
        self.workers
    }

    fn worker_of(&self, slot: u32) -> Option<usize> {
        self.slots.get(&slot).copied()
    }

    fn signal(&self, worker: usize, signal: Signal) {
        self.supervisor.signal_worker(worker, signal);
    }

    fn replace(&mut self, worker: usize) {
        // What it uses up to its end is not seen.
        if let Some((_, _, process)) = self.supervisor.places().find(|(w, ..)| *w == worker) {
            self.spent[worker] += cpu_time(process);
        }
        self.supervisor.replace(worker);
    }

    fn cpu_times(&self) -> Vec<Duration> {
        let mut times = self.spent.clone();
        for (worker, _, process) in self.supervisor.places() {
            times[worker] += cpu_time(process);
        }
        times
    }

    async fn next(&mut self) -> Result<Event> {
        Ok(match self.notice().await {
            Notice::Died(line) => Event::Died(line),
            Notice::Back(worker, _) => Event::Back(worker),
            _ => Event::Other,
        })
    }

    async fn complete(&mut self) -> Result<()> {
        let complete = async {
            while self.supervisor.ready() < self.workers {
                self.notice().await;
            }
        };
        timeout(PATIENCE, complete).await.context("a worker does not come back")
    }
}

/// What its one thread has used.
fn cpu_time(process: Identity) -> Duration {
    let schedule = i32::try_from(process.pid)
        .ok()
        .and_then(|pid| Process::new(pid).ok()?.schedstat().ok())
        .map(|schedule| schedule.sum_exec_runtime);
    Duration::from_nanos(schedule.unwrap_or_default())
}

fn steered(bpffs: &Path) -> Result<(Seats, SocketAddr)> {
    let first = socket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = first.local_addr()?.as_socket().context("a TCP socket has no address")?;
    let group = GroupSpec {
        identity: GroupIdentity { netns: own_netns()?, protocol: Protocol::Tcp, address },
        policy: Policy::Kernel,
        agent: Identity::of(std::process::id()).context("cannot read /proc/self/stat")?,
        log_level: 0,
        adopted: false,
        replaced: false,
        counted: true,
        flows: None,
        index: 0,
        service: None,
        options: PolicyOptions::default(),
    };
    let store = Store::prepare(bpffs)?;
    // Named after the port, so that what an earlier bed left is in nobody's way.
    let name = balancer_steering::group::default_name(Protocol::Tcp, address);
    let (steering, _) = Steering::create(&store, &name, &group, |_| Ok(()))?;
    let steering = Box::new(steering);
    let identity = group.identity;
    Ok((Seats::Steered { steering, identity, first: Some(first) }, address))
}

fn shared() -> Result<(Seats, SocketAddr)> {
    let socket = socket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = socket.local_addr()?.as_socket().context("a TCP socket has no address")?;
    socket::listen(&socket, address)?;
    Ok((Seats::Shared(socket), address))
}
