//! All that connections do, in any order: what is counted must be what the kernel lists.

use std::{
    collections::VecDeque,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use balancer::{
    steering::{Steering, Store},
    tracking,
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
        let agrees = try_until(|| {
            let counts = tracking::compare(&steering).unwrap();
            counts.values().all(|count| count.tracked == count.listed)
        });
        assert!(agrees, "{:?}", tracking::compare(&steering).unwrap());
        let counts = tracking::compare(&steering).unwrap();
        let open: u64 = counts.values().map(|count| count.tracked).sum();
        assert!(open > 0 && open <= clients.len() as u64, "{open} of {}", clients.len());
        drop(clients);
        let nothing = try_until(|| {
            tracking::compare(&steering).unwrap().values().all(|count| count.tracked == 0)
        });
        assert!(nothing, "{:?}", tracking::compare(&steering).unwrap());
        for slot in 0..64 {
            assert_eq!(steering.open_connections(slot), 0, "slot {slot} of a worker that is gone");
        }
        running.stop();
    });
}

fn live_workers(host: &Host) -> Vec<u32> {
    let status = host.status();
    let members = status["members"].as_array().unwrap();
    let live = members.iter().filter(|member| member["state"] == "live");
    live.map(|member| u32::try_from(member["pid"].as_u64().unwrap()).unwrap()).collect()
}
