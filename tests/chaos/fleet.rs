//! Servers as an init system keeps them: each opens the port for itself with SO_REUSEPORT, and is
//! started again when it has died. They know nothing of balancer. What they run is its built-in
//! worker, so that all who are compared serve alike.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use balancer_steering::socket;
use harness::host::balancer;
use rustix::stdio::dup2_stdin;

use crate::{victim, world::terminate};

/// When one that died is started again: after 100 ms, as systemd's `RestartSec=` is by default, and as
/// `balancer run` does it at first.
const RESTART: Duration = Duration::from_millis(100);

/// Servers at one address.
pub struct Fleet {
    address: SocketAddr,
    servers: Vec<Child>,
    /// To be started again.
    due: Vec<Instant>,
    /// Told to end, not to come back.
    leaving: Vec<Child>,
}

impl Fleet {
    /// So many.
    pub fn start(address: SocketAddr, count: usize) -> Self {
        let servers = (0..count).map(|_| start(address)).collect();
        Self { address, servers, due: Vec::new(), leaving: Vec::new() }
    }

    /// Who serves.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Child::id).filter(|pid| victim::lives(*pid)).collect()
    }

    /// One more; its PID.
    pub fn add(&mut self) -> u32 {
        let server = start(self.address);
        let pid = server.id();
        self.servers.push(server);
        pid
    }

    /// Tells one to end, for good.
    pub fn dismiss(&mut self, pid: u32) {
        if let Some(place) = self.servers.iter().position(|server| server.id() == pid) {
            terminate(pid);
            self.leaving.push(self.servers.remove(place));
        }
    }

    /// Starts those again that have died.
    pub fn tend(&mut self) {
        let now = Instant::now();
        let died = |server: &mut Child| server.try_wait().is_ok_and(|status| status.is_some());
        let before = self.servers.len();
        self.servers.retain_mut(|server| !died(server));
        self.leaving.retain_mut(|server| !died(server));
        self.due.extend((self.servers.len()..before).map(|_| now + RESTART));
        let due = self.due.iter().filter(|due| **due <= now).count();
        self.due.retain(|due| *due > now);
        for _ in 0..due {
            self.add();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for server in self.servers.iter_mut().chain(&mut self.leaving) {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// Starts one and waits until it serves.
fn start(address: SocketAddr) -> Child {
    let mut command = Command::new(env::current_exe().expect("a program"));
    command.args([SERVE, &address.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a worker starts");
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut String::new()).expect("a worker serves");
    child
}

/// The first argument of a process that is to be a server.
pub const SERVE: &str = "serve";

/// Opens the port and becomes a server; returns only where that fails.
pub fn serve(address: &str) -> io::Error {
    let address = address.parse().expect("an address");
    let socket = socket::bind(address).expect("an address");
    socket::listen(&socket, address).expect("an address");
    dup2_stdin(&socket).expect("standard input");
    // Of no group: it has nothing to do with any.
    Command::new(balancer()).args(["worker", "--slot", "0", "--group", "none"]).exec()
}
