//! Workers and who is in charge of them: three ways to serve one port with several processes, to which
//! the same happens.

use std::{
    fmt, fs,
    net::SocketAddr,
    process::{Child, Output, Stdio},
};

use clap::ValueEnum;
use harness::{Host, Running, running::try_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{fleet::Fleet, victim};

const ADDRESS: &str = "127.0.0.1:8080";

/// How long connections that are open may hold up a reload.
const DRAIN: &str = "400ms";

/// How many workers there are in the beginning.
pub const WORKERS: usize = 4;

/// The most that are added.
const MOST: usize = 5;

/// Who is in charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `balancer run`, which starts the workers too
    Run,
    /// `balancer attach`, and an init system that starts the workers
    Attach,
    /// Nobody: that init system, and the kernel's hash
    Kernel,
    /// The same, where the kernel is told to move what waits at a listener that closes
    /// (net.ipv4.tcp_migrate_req)
    Migrating,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "balancer run",
            Self::Attach => "balancer attach",
            Self::Kernel => "kernel's hash",
            Self::Migrating => "kernel, migrating",
        })
    }
}

/// Workers, and who is in charge of them.
pub struct World<'a> {
    host: &'a Host,
    pub kind: Kind,
    pub fleet: Option<Fleet>,
    agent: Option<Running>,
    workers: usize,
}

impl<'a> World<'a> {
    /// All begins.
    pub fn start(host: &'a Host, kind: Kind) -> Self {
        if kind == Kind::Migrating {
            fs::write("/proc/sys/net/ipv4/tcp_migrate_req", "1").expect("a setting of this host");
        }
        let fleet = (kind != Kind::Run).then(|| Fleet::start(address(), WORKERS));
        let mut world = Self { host, kind, fleet, agent: None, workers: WORKERS };
        world.start_agent(&[]);
        world
    }

    /// Whether balancer is there.
    pub fn is_steered(&self) -> bool {
        matches!(self.kind, Kind::Run | Kind::Attach)
    }

    /// The PID of balancer itself.
    pub fn agent(&self) -> Option<u32> {
        self.agent.as_ref().map(Running::pid)
    }

    fn start_agent(&mut self, more: &[&str]) {
        let workers = self.workers.to_string();
        self.agent = match self.kind {
            Kind::Run => {
                let args = ["--listen", ADDRESS, "--workers", &workers, "--drain-timeout", DRAIN];
                Some(self.host.run(&[&args, more].concat()))
            }
            Kind::Attach => Some(self.host.attach(&[&[ADDRESS], more].concat())),
            Kind::Kernel | Kind::Migrating => None,
        };
    }

    /// Kills balancer and has another take over; what became of it is waited for.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.signal(Signal::KILL);
            agent.ended();
            self.start_agent(&["--takeover"]);
        }
    }

    /// Who serves.
    pub fn living(&self) -> Vec<u32> {
        match &self.fleet {
            Some(fleet) if !self.is_steered() => fleet.pids(),
            _ => self.members("live").into_iter().filter(|pid| victim::lives(*pid)).collect(),
        }
    }

    /// Members of the group in a state.
    pub fn members(&self, state: &str) -> Vec<u32> {
        self.host.workers(Some(state))
    }

    /// Runs a command of balancer's.
    pub fn balancer(&self, args: &[&str]) -> Output {
        self.host.output(args)
    }

    /// One worker more; false where there are enough.
    pub fn add(&mut self) -> bool {
        if self.workers >= MOST {
            return false;
        }
        self.workers += 1;
        match &mut self.fleet {
            Some(fleet) => drop(fleet.add()),
            // To have more is what another agent is for.
            None => self.kill_agent(),
        }
        true
    }

    /// Begins to replace all workers; the command that waits for it, where there is one.
    pub fn begin_reload(&mut self) -> Option<Child> {
        let command = self.host.balancer(&["reload"]);
        let mut command = (self.kind == Kind::Run).then_some(command)?;
        Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("balancer"))
    }

    /// Replaces a worker of the init system's, as one would by hand: another is started first, and
    /// with balancer the old one is drained.
    pub fn replace(&mut self, old: u32) {
        let Some(fleet) = &mut self.fleet else { return };
        let new = fleet.add();
        if self.is_steered() {
            try_until(|| self.members("live").contains(&new));
            self.balancer(&["drain", &old.to_string(), "--wait", "--timeout", DRAIN]);
        }
        if let Some(fleet) = &mut self.fleet {
            fleet.dismiss(old);
        }
    }

    /// Starts workers of the init system's that have died.
    pub fn tend(&mut self) {
        if let Some(fleet) = &mut self.fleet {
            fleet.tend();
        }
    }

    /// Waits until there are as many workers as there should be.
    pub fn complete(&mut self) -> bool {
        let workers = self.workers;
        try_until(|| {
            self.tend();
            self.living().len() >= workers
        })
    }

    /// Choices that the kernel's hash had to make, and those that failed.
    pub fn misses(&self) -> Option<(u64, u64)> {
        let status = self.is_steered().then(|| self.host.status())?;
        Some((status["fallback"].as_u64()?, status["errors"].as_u64()?))
    }

    /// Ends it all in order.
    pub fn end(self) {
        if let Some(agent) = self.agent {
            agent.stop();
        }
    }
}

/// Where they serve.
pub fn address() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

/// Tells a worker to end; one that is gone need not be told.
pub fn terminate(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}
