//! What a world's run came to, as figures. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    deck::Fault,
    ledger::{Asked, Fate},
    scene::History,
    world::Kind,
};

/// How many of those that were lost are told about, a line each.
const SHOWN: usize = 10;

/// Figures of one world.
pub struct Account {
    pub kind: Kind,
    pub took: Duration,
    pub requests: usize,
    /// Connections that were made.
    pub connections: usize,
    pub fates: BTreeMap<Fate, usize>,
    pub queued: usize,
    pub faults: BTreeMap<Fault, usize>,
    pub cut_short: BTreeMap<String, usize>,
    pub refused: Vec<String>,
    /// What is known of the first of those that were lost.
    pub lost_how: Vec<String>,
    /// Choices that the kernel's hash had to make, and those that failed.
    pub misses: Option<(u64, u64)>,
    /// The 99th percentile, in calm and while workers were replaced.
    pub p99: [Option<Duration>; 2],
    /// Whether balancer itself took no more and more.
    pub flat: bool,
}

impl Account {
    /// Of what was asked, and what was done meanwhile.
    pub fn of(
        kind: Kind,
        took: Duration,
        asked: &[Asked],
        history: History,
        misses: Option<(u64, u64)>,
        flat: bool,
    ) -> Self {
        let attempts = asked.iter().flat_map(|asked| &asked.attempts);
        let connections = attempts.filter(|attempt| attempt.connected).count();
        let p99 = [&history.calm, &history.reloads].map(|windows| percentile(asked, windows));
        let ledger = &history.ledger;
        let lost = asked.iter().filter(|asked| matches!(ledger.fate(asked), Fate::Lost(_)));
        let lost_how = lost.take(SHOWN).map(|asked| ledger.describe(asked)).collect();
        Self {
            kind,
            lost_how,
            took,
            requests: asked.len(),
            connections,
            fates: history.ledger.sum(asked),
            queued: history.queued,
            faults: history.faults,
            cut_short: history.cut_short,
            refused: history.refused,
            misses,
            p99,
            flat,
        }
    }

    /// How many had this fate.
    pub fn fate(&self, fate: Fate) -> usize {
        self.fates.get(&fate).copied().unwrap_or_default()
    }

    /// Lost, and nobody to blame.
    pub fn lost(&self) -> usize {
        self.fates.iter().filter(|(fate, _)| matches!(fate, Fate::Lost(_))).map(|(_, n)| n).sum()
    }

    /// Whether all is as balancer promises.
    pub fn holds(&self) -> bool {
        !matches!(self.kind, Kind::Run | Kind::Attach)
            || self.lost() == 0 && self.refused.is_empty() && self.flat
    }
}

/// How long 99 of 100 requests took at most of those that were due then, slow clients' apart.
fn percentile(asked: &[Asked], windows: &[(Instant, Instant)]) -> Option<Duration> {
    let within = |due: Instant| windows.iter().any(|&(begun, ended)| (begun..ended).contains(&due));
    let due = asked.iter().filter(|asked| !asked.slow && within(asked.due));
    let ended = due.filter_map(|asked| Some(asked.attempts.last()?.ended - asked.due));
    let mut times: Vec<Duration> = ended.collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).copied()
}
