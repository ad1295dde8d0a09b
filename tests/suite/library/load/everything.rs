//! All that connections do, in any order: what is counted must be what the kernel lists.

use std::{
    collections::VecDeque,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use balancer_steering::{
    discovery,
    steering::{Steering, Store},
};
use harness::{
    Host,
    running::{send, try_until, wait_until},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use socket2::SockRef;

const OPERATIONS: usize = 10_000;
const MOST: usize = 300;

#[test]
fn after_ten_thousand_opens_closes_resets_and_kills_what_is_counted_is_what_the_kernel_lists() {
    Host::with(|host| {
        let args = ["--workers", "4", "--policy", "least-connections", "--name", "web"];
        let running = host.run(&args);
        let store = Store::at(host.bpffs());
        let steering = Steering::open(&store, "web").unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut clients: VecDeque<TcpStream> = VecDeque::new();
        let mut killed = 0;
        for operation in 0..OPERATIONS {
            match random.random_range(0..100) {
                0..50 if clients.len() < MOST => {
                    if let Ok(client) = TcpStream::connect(running.address()) {
                        clients.push_back(client);
                    }
                }
                0..75 => drop(clients.pop_front()),
                75..90 => {
                    if let Some(client) = clients.pop_back() {
                        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                }
                90..97 => {
                    // Half-closed: it is the worker's until it closes its own side.
                    if let Some(client) = clients.front() {
                        let _ = client.shutdown(Shutdown::Write);
                    }
                }
                _ if operation % 16 == 0 => {
                    let pids = live_workers(host);
                    let pid = pids[random.random_range(0..pids.len())];
                    // Half of the time with a long queue: it is stopped, and some come to it.
                    if random.random() {
                        send(pid, Signal::STOP);
                        clients.extend(
                            (0..12).filter_map(|_| TcpStream::connect(running.address()).ok()),
                        );
                    }
                    send(pid, Signal::KILL);
                    killed += 1;
                    wait_until("another is there in its place", || {
                        let now = live_workers(host);
                        now.len() == 4 && !now.contains(&pid)
                    });
                }
                _ => {}
            }
        }
        assert!(killed > 10, "{killed}");
        let mut last = (Vec::new(), Vec::new());
        let agrees = try_until(|| {
            last = (counted(&steering), listed(&steering));
            last.0 == last.1
        });
        assert!(agrees, "{last:?}");
        let open: u64 = last.0.iter().sum();
        assert!(open > 0 && open <= clients.len() as u64, "{open} of {}", clients.len());
        drop(clients);
        let nothing = try_until(|| counted(&steering).iter().all(|open| *open == 0));
        assert!(nothing, "{:?}", counted(&steering));
        running.stop();
    });
}

/// What members have open, as it is counted.
pub fn counted(steering: &Steering) -> Vec<u64> {
    let members = steering.members().unwrap();
    members.iter().map(|member| steering.open_connections(member.slot)).collect()
}

/// The same as the kernel lists it: what a member's process has open, and what waits at its socket.
pub fn listed(steering: &Steering) -> Vec<u64> {
    let (group, members) = (steering.group().unwrap().identity, steering.members().unwrap());
    let workers = || members.iter().map(|member| member.worker);
    let connections = discovery::connections(&group, workers()).unwrap();
    let queues = discovery::queues(&group, workers()).unwrap();
    let accepted: Vec<u64> = connections.iter().filter_map(|c| c.life.accepted()).collect();
    let pids: Vec<u32> = workers().map(|worker| worker.pid).collect();
    let open = discovery::sockets_of(&pids).into_iter().map(|(_, sockets)| {
        accepted.iter().filter(|inode| sockets.contains_key(inode)).count() as u64
    });
    let queued = members.iter().map(|member| u64::from(queues[&member.cookie]));
    open.zip(queued).map(|(open, queued)| open + queued).collect()
}

pub fn live_workers(host: &Host) -> Vec<u32> {
    let status = host.status();
    let members = status["members"].as_array().unwrap();
    let live = members.iter().filter(|member| member["state"] == "live");
    live.map(|member| u32::try_from(member["pid"].as_u64().unwrap()).unwrap()).collect()
}
