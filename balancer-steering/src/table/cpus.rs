//! The table of `cpu`: as many positions for each CPU, side by side, that are those of the workers
//! pinned to it. A CPU without such a worker has all of them in turn.

use balancer_common::table::MAX_POSITIONS;

use super::{
    Entry,
    interleave::{gcd, interleave},
};
use crate::slow_start;

/// Position → slot, the positions of CPU 0 first.
pub fn sequence(entries: &[Entry], cpus: u32) -> Vec<u32> {
    if entries.is_empty() {
        return Vec::new();
    }
    let limit = (MAX_POSITIONS / cpus.max(1)) as usize;
    let all: Vec<u64> = entries.iter().map(Entry::share).collect();
    let all = interleave(&all, limit);
    let turns: Vec<Turns> = (0..cpus).map(|cpu| Turns::of(entries, cpu, limit)).collect();
    let lengths = turns.iter().map(|turns| turns.length().unwrap_or(all.len()));
    let multiple = |one: usize, other: usize| one / gcd(one, other) * other;
    let each = lengths.fold(1, |all, one| multiple(all, one).min(limit));

    let mut sequence = Vec::new();
    for (cpu, turns) in turns.iter().enumerate() {
        // Not all CPUs begin with the same worker.
        let mut anybody = all.iter().cycle().skip(cpu);
        for turn in 0..each {
            let slot = turns.at(turn).or_else(|| Some(entries[*anybody.next()?].slot));
            sequence.extend(slot);
        }
    }
    sequence
}

/// Whose turn it is on a CPU, again and again; `None` for anybody's.
struct Turns(Vec<Option<u32>>);

impl Turns {
    fn of(entries: &[Entry], cpu: u32, limit: usize) -> Self {
        let own: Vec<&Entry> = entries.iter().filter(|entry| entry.cpu == Some(cpu)).collect();
        let mut shares: Vec<u64> = own.iter().map(|entry| entry.share()).collect();
        // What a cold one cannot take yet.
        let missing = |entry: &&Entry| u64::from(entry.weight * (slow_start::FULL - entry.factor));
        let left: u64 = own.iter().map(missing).sum();
        if left > 0 || own.is_empty() {
            shares.push(left.max(1));
        }
        let order = interleave(&shares, limit);
        Self(order.into_iter().map(|index| own.get(index).map(|entry| entry.slot)).collect())
    }

    /// How many turns make a round; `None` where all are anybody's.
    fn length(&self) -> Option<usize> {
        self.0.iter().any(Option::is_some).then_some(self.0.len())
    }

    fn at(&self, turn: usize) -> Option<u32> {
        self.0[turn % self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::{count, entries};

    /// Members of these weights, pinned to these CPUs.
    fn pinned(members: &[(u16, Option<u32>)]) -> Vec<Entry> {
        let weights: Vec<u16> = members.iter().map(|(weight, _)| *weight).collect();
        let mut entries = entries(&weights);
        for (entry, (_, cpu)) in entries.iter_mut().zip(members) {
            entry.cpu = *cpu;
        }
        entries
    }

    /// The positions of each CPU.
    fn of_cpus(entries: &[Entry], cpus: u32) -> Vec<Vec<u32>> {
        let sequence = sequence(entries, cpus);
        assert_eq!(sequence.len() % cpus as usize, 0);
        sequence.chunks(sequence.len() / cpus as usize).map(<[u32]>::to_vec).collect()
    }

    proptest! {
        #[test]
        fn a_cpu_goes_to_its_own_workers_by_weight_and_without_one_to_all(
            members in prop::collection::vec((1..=5u16, prop::option::of(0..4u32)), 1..12),
            cpus in 4..9u32,
        ) {
            let entries = pinned(&members);
            for (cpu, positions) in (0..).zip(of_cpus(&entries, cpus)) {
                let own: Vec<&Entry> = entries.iter().filter(|e| e.cpu == Some(cpu)).collect();
                let own = if own.is_empty() { entries.iter().collect() } else { own };
                let total: u64 = own.iter().map(|entry| entry.share()).sum();
                for entry in &own {
                    let ideal = entry.share() * positions.len() as u64;
                    prop_assert_eq!(count(&positions, entry.slot) as u64 * total, ideal);
                }
            }
        }
    }

    #[test]
    fn with_a_worker_a_cpu_there_is_a_position_a_cpu() {
        let entries = pinned(&[(1, Some(1)), (9, Some(0)), (1, Some(2))]);
        assert_eq!(sequence(&entries, 3), [1, 0, 2]);
    }

    #[test]
    fn where_nobody_is_pinned_cpus_begin_with_different_workers() {
        let entries = pinned(&[(2, None), (1, None)]);
        assert_eq!(of_cpus(&entries, 2), [[0, 1, 0], [1, 0, 0]]);
        let entries = pinned(&[(1, Some(0)), (1, None), (1, None)]);
        assert_eq!(of_cpus(&entries, 3), [[0, 0, 0], [1, 2, 0], [2, 0, 1]]);
    }

    #[test]
    fn a_cold_worker_shares_its_cpu_with_all_until_it_is_warm() {
        let mut entries = pinned(&[(1, Some(0)), (1, Some(1)), (1, Some(2))]);
        entries[1].factor = slow_start::FULL / 10;
        let positions = of_cpus(&entries, 3);
        assert_eq!(count(&positions[0], 0), positions[0].len());
        // A tenth by itself, and of the other nine what its share of all is: 1 of 21.
        let part = count(&positions[1], 1) as f64 / positions[1].len() as f64;
        assert!((0.1..0.2).contains(&part), "{part}");
        assert!(positions[1].contains(&0) && positions[1].contains(&2));
    }

    #[test]
    fn a_thousand_members_fit_with_as_many_cpus_as_there_may_be() {
        let members: Vec<_> = (0..1024).map(|m| (1000 - m % 7, Some(u32::from(m) % 300))).collect();
        let mut entries = pinned(&members);
        entries[5].factor = 3;
        let sequence = sequence(&entries, 8192);
        assert!(sequence.len() <= MAX_POSITIONS as usize);
        assert!((0..1024).all(|slot| sequence.contains(&slot)));
    }
}
