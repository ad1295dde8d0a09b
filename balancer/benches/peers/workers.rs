//! The workers: four that share a port, steered, and four more with a port each, for those who
//! choose by port. All the same program, on the same path: also the latter look into the maps of the
//! group, and count in slots of it that nobody else has.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use balancer_common::record::SlotState;
use balancer_steering::{
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
    socket,
    steering::{DEFAULT_BPFFS, Steering, Store},
    weight::Weight,
};
use socket2::Socket;

use crate::{group, network::SERVER};

/// How many share the port, and how many have one of their own.
pub const WORKERS: usize = 4;

/// The port that is shared.
pub const SHARED_PORT: u16 = 9000;

/// The first of the others; the configurations of the peers say it too.
const FIRST_PORT: u16 = 9001;

const GROUP: &str = "peers";

/// What `main` knows by that it is called as a worker.
pub const FIRST_ARGUMENT: &str = "--bpffs";

/// The workers that run. They end with this thread, however it ends.
pub struct Workers {
    steering: Steering,
}

impl Workers {
    /// Starts them, and waits until all accept connections.
    ///
    /// # Errors
    /// Returns an error if one cannot be started.
    pub fn start() -> Result<Self> {
        let address = SocketAddr::from((SERVER, SHARED_PORT));
        let group = group::at(address)?;
        let store = Store::prepare(Path::new(DEFAULT_BPFFS))?;
        let (mut steering, _logs) = Steering::create(&store, GROUP, &group, |_| Ok(()))?;
        for _ in 0..WORKERS {
            let socket = listen(address)?;
            let slot = steering.seat(socket.as_fd(), Weight::default())?;
            steering.set_worker(slot, start(slot, socket)?)?;
            steering.set_state(slot, SlotState::Live)?;
        }
        for (port, slot) in (FIRST_PORT..).zip(WORKERS..2 * WORKERS) {
            start(u32::try_from(slot)?, listen((SERVER, port).into())?)?;
        }
        Ok(Self { steering })
    }

    /// Switches those that share a port.
    ///
    /// # Errors
    /// Returns an error if the policy cannot be switched to.
    pub fn set_policy(&mut self, policy: Policy) -> Result<()> {
        Ok(self.steering.set_policy(policy, PolicyOptions::default())?)
    }
}

/// Which of the four a slot belongs to, on either side.
pub fn worker_of(slot: u32) -> Option<usize> {
    Some(slot as usize % WORKERS)
}

fn listen(address: SocketAddr) -> Result<Socket> {
    let socket = socket::bind(address)?;
    socket::listen(&socket, address)?;
    Ok(socket)
}

/// This binary, called as a worker.
fn start(slot: u32, socket: Socket) -> Result<Identity> {
    let mut worker = Command::new("/proc/self/exe")
        .args([FIRST_ARGUMENT, DEFAULT_BPFFS, "worker", "--slot", &slot.to_string()])
        .args(["--group", GROUP, "--work", "1"])
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a worker")?;
    // Its first line says that it accepts connections.
    let mut line = String::new();
    if let Some(output) = worker.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("cannot hear from a worker")?;
    }
    ensure!(!line.is_empty(), "a worker ended before it accepted connections");
    Identity::of(worker.id()).context("a worker ended at once")
}
