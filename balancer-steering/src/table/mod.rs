//! Builds the table that maps positions to slots. Pure: weights go in, slots come out.
//!
//! | what is drawn | module |
//! | --- | --- |
//! | any position, by weight | `interleave` |
//! | the place of a client | `maglev` |
//! | a position of a CPU's own | `cpus` |

mod cpus;
mod interleave;
mod maglev;

use balancer_common::table::MAX_POSITIONS;

use self::interleave::interleave;
use crate::policy::Shares;

/// A slot, and what is to be known of its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The slot.
    pub slot: u32,
    /// Its member's weight.
    pub weight: u32,
    /// How much of it counts, of [`crate::slow_start::FULL`].
    pub factor: u32,
    /// What clients stick to: nobody else in the table has it.
    pub key: u32,
    /// The only CPU that its worker runs on.
    pub cpu: Option<u32>,
}

impl Entry {
    /// Its share of the others' together.
    pub fn share(&self) -> u64 {
        u64::from(self.weight) * u64::from(self.factor)
    }
}

/// What the programs read: position → slot, and every slot once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Drawn from: at most [`MAX_POSITIONS`], and as long as the shares need to be met exactly where
    /// that is enough.
    pub sequence: Vec<u32>,
    /// Walked when draws keep hitting dead slots.
    pub members: Vec<u32>,
    /// The share of each of them, for policies that compare loads.
    pub weights: Vec<u64>,
}

impl Table {
    /// Builds the table of the given members, in their order, for a machine that may ever have so many
    /// CPUs.
    pub fn build(entries: &[Entry], shares: Shares, cpus: u32) -> Self {
        let sequence = match shares {
            Shares::Equal => in_turn(entries, |entry| entry.factor.into()),
            Shares::ByWeight => in_turn(entries, Entry::share),
            Shares::ByClient => maglev::sequence(entries),
            Shares::ByCpu => cpus::sequence(entries, cpus),
        };
        Self {
            sequence,
            members: entries.iter().map(|entry| entry.slot).collect(),
            weights: entries.iter().map(Entry::share).collect(),
        }
    }
}

fn in_turn(entries: &[Entry], share: impl Fn(&Entry) -> u64) -> Vec<u32> {
    let shares: Vec<u64> = entries.iter().map(share).collect();
    let order = interleave(&shares, MAX_POSITIONS as usize);
    order.into_iter().map(|member| entries[member].slot).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slow_start;

    const CPUS: u32 = 4;

    /// Members that are warm, pinned nowhere, and have their slots for keys.
    pub fn entries(weights: &[u16]) -> Vec<Entry> {
        let entry = |(slot, &weight): (u32, &u16)| Entry {
            slot,
            weight: weight.into(),
            factor: slow_start::FULL,
            key: slot,
            cpu: None,
        };
        (0..).zip(weights).map(entry).collect()
    }

    fn by_weight(weights: &[u16]) -> Table {
        Table::build(&entries(weights), Shares::ByWeight, CPUS)
    }

    pub fn count(sequence: &[u32], slot: u32) -> usize {
        sequence.iter().filter(|&&other| other == slot).count()
    }

    proptest! {
        #[test]
        fn every_prefix_gives_each_member_its_share_rounded_down_or_up(
            weights in prop::collection::vec(1..40u16, 1..12),
        ) {
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let sequence = by_weight(&weights).sequence;
            let mut counts = vec![0u64; weights.len()];
            for (length, &slot) in (1..).zip(&sequence) {
                counts[slot as usize] += 1;
                for (&count, &weight) in counts.iter().zip(&weights) {
                    let ideal = length * u64::from(weight);
                    prop_assert!(count * total < ideal + total && count * total + total > ideal,
                        "{weights:?} at {length}: {counts:?}");
                }
            }
        }

        #[test]
        fn a_round_has_every_member_as_often_as_its_weight(
            weights in prop::collection::vec(1..=1000u16, 1..20),
        ) {
            let sequence = by_weight(&weights).sequence;
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            for (slot, &weight) in (0..).zip(&weights) {
                let count = count(&sequence, slot) as u64;
                prop_assert_eq!(count * total, u64::from(weight) * sequence.len() as u64);
            }
        }
    }

    #[test]
    fn any_ten_in_a_row_of_5_3_2_have_exactly_5_3_and_2() {
        let sequence = by_weight(&[5, 3, 2]).sequence;
        assert_eq!(sequence.len(), 10);
        for start in 0..10 {
            let mut counts = [0; 3];
            for step in 0..10 {
                counts[sequence[(start + step) % 10] as usize] += 1;
            }
            assert_eq!(counts, [5, 3, 2]);
        }
    }

    #[test]
    fn of_turns_due_at_once_the_one_that_waited_longest_goes_first() {
        assert_eq!(by_weight(&[2, 1]).sequence, [0, 1, 0]);
    }

    #[test]
    fn equal_weights_are_plain_rotation() {
        assert_eq!(by_weight(&[1, 1, 1]).sequence, [0, 1, 2]);
        assert_eq!(by_weight(&[7, 7, 7]).sequence, [0, 1, 2]);
    }

    #[test]
    fn a_thousand_members_of_1000_and_1_fit_and_are_exact() {
        let mut weights = vec![1000; 999];
        weights.push(1);
        let table = by_weight(&weights);
        assert_eq!(table.sequence.len(), 999_001);
        assert!(table.sequence.len() <= MAX_POSITIONS as usize);
        assert_eq!(count(&table.sequence, 999), 1);
        assert_eq!(count(&table.sequence, 0), 1000);
    }

    #[test]
    fn round_robin_ignores_weights() {
        assert_eq!(Table::build(&entries(&[5, 3]), Shares::Equal, CPUS).sequence, [0, 1]);
    }

    #[test]
    fn a_cold_member_has_a_tenth_of_a_turn_even_where_weights_are_ignored() {
        let mut entries = entries(&[5, 3, 7]);
        entries[2].factor = slow_start::FULL / 10;
        let table = Table::build(&entries, Shares::Equal, CPUS);
        assert_eq!([0, 1, 2].map(|slot| count(&table.sequence, slot)), [10, 10, 1]);
        assert_eq!(table.weights, [100, 60, 14]);
    }

    #[test]
    fn a_thousand_members_of_all_weights_fit_while_one_is_cold_and_nobody_starves() {
        let weights: Vec<u16> = (0..1024).map(|member| 1000 - member % 7).collect();
        let mut entries = entries(&weights);
        entries[1023].factor = slow_start::FULL / 10;
        let sequence = Table::build(&entries, Shares::ByWeight, CPUS).sequence;
        assert!(sequence.len() <= MAX_POSITIONS as usize, "{}", sequence.len());
        let of = |slot| count(&sequence, slot) as f64 / f64::from(entries[slot as usize].weight);
        let tenth = of(1023) / of(0);
        assert!((tenth - 0.1).abs() < 0.002, "{tenth}");
    }

    #[test]
    fn nobody_makes_an_empty_table() {
        for shares in [Shares::Equal, Shares::ByWeight, Shares::ByClient, Shares::ByCpu] {
            assert_eq!(Table::build(&[], shares, CPUS), Table::default());
        }
    }
}
