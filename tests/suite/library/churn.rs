//! Two hundred rounds of servers and balancers that come, go and are killed, in any order: nothing
//! leaks, and nobody is refused while any server lives. It runs alone (.config/nextest.toml), since it
//! counts what the kernel has of balancer on the whole machine.

use std::{collections::BTreeSet, fs, process::Command};

use balancer_common::maps;
use harness::{
    Host, Running,
    running::{send, try_until, wait_until_gone, watch},
    servers::{Server, ask},
    there,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:8000";
const ROUNDS: usize = 200;
const SEED: u64 = 20_261_122;
const MOST_SERVERS: usize = 5;

/// What there is.
struct Scene<'a> {
    host: &'a Host,
    servers: Vec<Server>,
    agent: Option<Running>,
    random: ChaCha8Rng,
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Event {
    ServerStarts,
    ServerIsStopped,
    ServerIsKilled,
    Attach,
    AttachOnce,
    AgentIsStopped,
    AgentIsKilled,
    Detach,
}

impl Scene<'_> {
    fn steered(&self) -> bool {
        self.host.pins("tcp-8000").exists()
    }

    /// What may happen now.
    fn possible(&self) -> Vec<Event> {
        let mut possible = Vec::new();
        if self.servers.len() < MOST_SERVERS {
            // As often as servers end.
            possible.extend([Event::ServerStarts; 2]);
        }
        if !self.servers.is_empty() {
            possible.extend([Event::ServerIsStopped, Event::ServerIsKilled]);
        }
        if !self.servers.is_empty() && !self.steered() {
            possible.extend([Event::Attach, Event::AttachOnce]);
        }
        if self.agent.is_some() {
            possible.extend([Event::AgentIsStopped, Event::AgentIsKilled]);
        }
        if self.steered() {
            possible.push(Event::Detach);
        }
        possible
    }

    fn round(&mut self) -> Event {
        let possible = self.possible();
        let event = possible[self.random.random_range(0..possible.len())];
        match event {
            Event::ServerStarts => self.servers.push(Server::start("tcp", ADDRESS)),
            Event::ServerIsStopped => self.any_server().end(Signal::TERM),
            Event::ServerIsKilled => self.any_server().end(Signal::KILL),
            Event::Attach => self.agent = Some(self.host.attach(&[":8000"])),
            Event::AttachOnce => drop(self.host.succeed(&["attach", ":8000", "--once"])),
            Event::AgentIsStopped => {
                let status = self.agent.take().unwrap().stop().status;
                assert!(status.success(), "{status}");
            }
            Event::AgentIsKilled => {
                let agent = self.agent.take().unwrap();
                let process = watch(agent.pid());
                send(agent.pid(), Signal::KILL);
                wait_until_gone(&process, "an agent");
            }
            Event::Detach => {
                self.host.succeed(&["status"]);
                self.host.succeed(&["detach", ":8000"]);
                if let Some(agent) = self.agent.take() {
                    let status = agent.ended().status;
                    assert!(status.success(), "{status}");
                }
            }
        }
        event
    }

    fn any_server(&mut self) -> Server {
        let count = self.servers.len();
        self.servers.swap_remove(self.random.random_range(0..count))
    }

    /// Whoever lives answers, and nobody is refused.
    fn check(&self) {
        if !self.servers.is_empty() {
            let answers = ask(ADDRESS, 10);
            let living = |pid: &u32| self.servers.iter().any(|server| server.pid() == *pid);
            assert!(answers.keys().all(living), "{answers:?}");
        }
    }
}

#[test]
fn after_two_hundred_rounds_nothing_is_leaked_and_nobody_was_refused() {
    if !there("python3") {
        return;
    }
    // What the first host on a machine opens for good is none of ours: tokio's own, for signals.
    Host::with(|_| {});
    let before = Held::now();
    Host::with(|host| {
        let random = ChaCha8Rng::seed_from_u64(SEED);
        let mut scene = Scene { host, servers: Vec::new(), agent: None, random };
        for round in 0..ROUNDS {
            let event = scene.round();
            // Shown if it fails, with what led there.
            println!("seed {SEED}, round {round}: {event:?}, {} servers", scene.servers.len());
            scene.check();
        }
        drop(scene.agent.take().map(Running::stop));
        if scene.steered() {
            host.succeed(&["detach"]);
        }
        assert!(host.is_clean());
    });
    // The kernel frees them a little later.
    let mut leaked = Held::now().beyond(&before);
    let gone = try_until(|| {
        leaked = Held::now().beyond(&before);
        leaked == Held::default()
    });
    assert!(gone, "{leaked:?} are there still, and were not before");
}

/// What could leak, by the kernel's numbers, which it does not use twice: whatever else goes meanwhile
/// hides nothing that stays.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
    descriptors: usize,
}

impl Held {
    fn now() -> Self {
        let ids = |what: &str, is_ours: &dyn Fn(&str) -> bool| {
            let listed = Command::new("bpftool").args(["-j", what, "list"]).output().unwrap();
            let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
            let listed = listed.as_array().unwrap().iter();
            let ours = listed.filter(|one| one["name"].as_str().is_some_and(is_ours));
            ours.map(|one| one["id"].as_u64().unwrap()).collect()
        };
        Self {
            programs: ids("prog", &|name| name.starts_with("bal_")),
            maps: ids("map", &|name| maps::ALL.contains(&name) || maps::SHARED.contains(&name)),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
        }
    }

    fn beyond(&self, before: &Self) -> Self {
        Self {
            programs: &self.programs - &before.programs,
            maps: &self.maps - &before.maps,
            descriptors: self.descriptors.saturating_sub(before.descriptors),
        }
    }
}
