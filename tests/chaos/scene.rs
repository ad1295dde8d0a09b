//! Does to a world what the deck says, while traffic comes, and writes down what it does.

use std::{
    collections::BTreeMap,
    io::Read as _,
    process::Child,
    time::{Duration, Instant},
};

use harness::running::try_until;

use crate::{
    deck::Fault,
    ledger::Ledger,
    traffic::Traffic,
    victim::Victim,
    world::{self, World},
};

/// Policies, with their options.
const POLICIES: [&[&str]; 12] = [
    &["hash"],
    &["round-robin", "--avoid-stalled", "off"],
    &["weighted"],
    &["random"],
    &["least-connections"],
    &["two-choices"],
    &["shortest-queue"],
    &["sticky"],
    &["cpu"],
    &["round-robin", "--avoid-stalled", "20ms"],
    &["least-connections", "--avoid-stalled", "20ms"],
    &["random", "--avoid-stalled", "off"],
];

/// How many come at once where a queue is to grow.
const BURST: usize = 40;

/// What has happened.
#[derive(Default)]
pub struct History {
    pub ledger: Ledger,
    /// How often what was done.
    pub faults: BTreeMap<Fault, usize>,
    /// Reloads that ended before all were replaced, and why.
    pub cut_short: BTreeMap<String, usize>,
    /// Connections that waited to be accepted by workers that were killed.
    pub queued: usize,
    /// When nothing happened at all, and when only a reload did.
    pub calm: Vec<(Instant, Instant)>,
    pub reloads: Vec<(Instant, Instant)>,
    /// What could not be done though it should.
    pub refused: Vec<String>,
}

/// A world under load.
pub struct Scene<'a> {
    pub world: World<'a>,
    pub traffic: Traffic,
    pub history: History,
    /// On its way.
    reload: Option<Child>,
    /// Whether its agent was killed since.
    orphaned: bool,
}

impl<'a> Scene<'a> {
    pub fn new(world: World<'a>, traffic: Traffic) -> Self {
        Self { world, traffic, history: History::default(), reload: None, orphaned: false }
    }

    /// Reloads with nothing else going on, and as much time without: to compare how long requests take.
    pub fn calm(&mut self, reloads: usize) {
        for _ in 0..reloads {
            assert!(self.world.complete(), "workers are missing");
            let begun = Instant::now();
            self.reload();
            self.finish_reload();
            let ended = Instant::now();
            self.history.reloads.push((begun, ended));
            std::thread::sleep(ended - begun);
            self.history.calm.push((ended, Instant::now()));
        }
    }

    /// Does it; `chance` decides to whom and how.
    pub fn inflict(&mut self, fault: Fault, chance: usize) {
        self.world.tend();
        if self.reload.is_some() {
            self.expect_ends();
        }
        let steered = self.world.is_steered();
        let done = match fault {
            Fault::Switch => steered && self.command("policy", POLICIES[chance % POLICIES.len()]),
            Fault::KernelAndBack => steered && self.kernel_and_back(),
            Fault::Weigh => steered && self.weigh(chance),
            Fault::Drain => steered && self.drain(chance),
            Fault::Reload => {
                self.finish_reload();
                self.reload();
                true
            }
            Fault::KillQueued => self.kill(chance, true),
            Fault::Kill => self.kill(chance, false),
            Fault::Stall => self.stall(chance),
            Fault::Terminate => self.terminate(chance),
            Fault::Add => {
                self.orphaned = true;
                self.world.add()
            }
            Fault::KillAgent => steered && self.kill_agent(),
        };
        if done {
            *self.history.faults.entry(fault).or_default() += 1;
        }
        self.look_at_reload();
    }

    fn command(&mut self, verb: &str, args: &[&str]) -> bool {
        let output = self.world.balancer(&[&[verb], args].concat());
        let done = output.status.success();
        if !done {
            let why = String::from_utf8_lossy(&output.stderr);
            self.history.refused.push(format!("{verb} {}: {}", args.join(" "), why.trim_end()));
        }
        done
    }

    /// Nobody is killed meanwhile, nor replaced: what the kernel does with queues by itself is another
    /// story.
    fn kernel_and_back(&mut self) -> bool {
        self.finish_reload();
        // It drains nobody, and some may have a reload that was cut short behind them.
        let drained = || self.world.members("draining").is_empty();
        try_until(drained)
            && self.command("policy", &["kernel"])
            && self.command("policy", &["hash"])
    }

    /// Somebody who serves, of three at least: nobody could come after the last.
    fn victim(&mut self, chance: usize) -> Option<u32> {
        let mut living = Vec::new();
        let enough = try_until(|| {
            self.world.tend();
            living = self.world.living();
            living.len() > 2
        });
        enough.then(|| living[chance % living.len()])
    }

    fn weigh(&mut self, chance: usize) -> bool {
        let Some(pid) = self.victim(chance) else { return false };
        // It may end at any time.
        let change = format!("{pid}={}", 1 + chance % 9);
        self.world.balancer(&["weight", &change]).status.success()
    }

    fn drain(&mut self, chance: usize) -> bool {
        let Some(pid) = self.victim(chance) else { return false };
        let pid = pid.to_string();
        let drained = self.world.balancer(&["drain", &pid]).status.success();
        pause(chance, 200);
        // Also one that was drained before.
        self.world.balancer(&["resume", &pid]).status.success() && drained
    }

    /// Whether it happened or not: all that there were may have ended since.
    fn reload(&mut self) {
        let workers = self.expect_ends();
        self.orphaned = false;
        self.reload = self.world.begin_reload();
        if self.reload.is_some() {
            return;
        }
        for pid in workers {
            self.world.replace(pid);
        }
    }

    /// Those who serve, who may be told to end from now on: also one that was started meanwhile.
    fn expect_ends(&mut self) -> Vec<u32> {
        let workers = self.world.living();
        workers.iter().for_each(|pid| self.history.ledger.ends(*pid));
        workers
    }

    fn finish_reload(&mut self) {
        if let Some(reload) = &mut self.reload {
            let _ = reload.wait();
        }
        self.look_at_reload();
    }

    fn look_at_reload(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        let Ok(Some(status)) = reload.try_wait() else { return };
        if !status.success() {
            let mut why = String::new();
            let stderr = reload.stderr.take();
            let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut why));
            let why = if self.orphaned { "its agent was killed" } else { why.trim_end() };
            *self.history.cut_short.entry(why.to_owned()).or_default() += 1;
        }
        self.reload = None;
    }

    fn kill(&mut self, chance: usize, queued: bool) -> bool {
        let Some(pid) = self.victim(chance) else { return false };
        let Some(victim) = Victim::stop(pid) else { return false };
        let (stopped, accepted) = (Instant::now(), victim.accepted());
        if queued {
            self.traffic.burst(BURST);
            pause(chance, 300);
        }
        // At the least: more may come until it is dead.
        self.history.queued += victim.queued();
        self.history.ledger.killed(pid, stopped, accepted, victim.kill());
        true
    }

    fn stall(&mut self, chance: usize) -> bool {
        let Some(pid) = self.victim(chance) else { return false };
        let Some(victim) = Victim::stop(pid) else { return false };
        let (stopped, accepted) = (Instant::now(), victim.accepted());
        pause(chance, 500);
        if !victim.go_on() {
            // A reload has waited as long for it as it was told to, and has killed it.
            self.history.ledger.killed(pid, stopped, accepted, None);
        }
        true
    }

    fn terminate(&mut self, chance: usize) -> bool {
        let Some(victim) = self.victim(chance) else { return false };
        self.history.ledger.ends(victim);
        world::terminate(victim);
        true
    }

    fn kill_agent(&mut self) -> bool {
        self.orphaned = true;
        self.world.kill_agent();
        true
    }

    /// All workers back, no reload on its way.
    pub fn settle(&mut self) {
        self.finish_reload();
        assert!(self.world.complete(), "workers are missing in the end");
    }
}

/// Up to so many milliseconds, at least a third.
fn pause(chance: usize, most: u64) {
    let least = most / 3;
    std::thread::sleep(Duration::from_millis(least + chance as u64 % (most - least)));
}
