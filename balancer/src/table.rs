//! Builds the table that maps positions to slots. Pure: weights go in, slots come out.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::policy::Shares;

/// A slot and the weight of its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The slot.
    pub slot: u32,
    /// Its member's share of the others' together.
    pub weight: u32,
}

/// What the programs read: position → slot, and every slot once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Drawn from: as long as the weights need to be met exactly, by their common divisor at most
    /// [`balancer_ebpf::table::MAX_POSITIONS`].
    pub sequence: Vec<u32>,
    /// Walked when draws keep hitting dead slots.
    pub members: Vec<u32>,
    /// The weight of each of them, for policies that compare loads.
    pub weights: Vec<u32>,
}

impl Table {
    /// Builds the table of the given members, in their order.
    pub fn build(entries: &[Entry], shares: Shares) -> Self {
        let members: Vec<u32> = entries.iter().map(|entry| entry.slot).collect();
        let sequence = match shares {
            Shares::Equal => members.clone(),
            Shares::ByWeight => {
                let weights: Vec<u64> =
                    entries.iter().map(|entry| u64::from(entry.weight)).collect();
                interleave(&weights).into_iter().map(|member| members[member]).collect()
            }
        };
        Self { sequence, members, weights: entries.iter().map(|entry| entry.weight).collect() }
    }
}

/// The order of one round in which member `i` appears `weights[i]` times (after division by the
/// common divisor) and every prefix of length `t` has it `t · weight / total` times, rounded down
/// or up: as even as whole numbers allow.
///
/// A member's `k`-th turn is a job of length 1, released at `k · total / weight` and due at
/// `(k + 1) · total / weight`; the released job that is due first goes next, of several the one
/// that has waited longest. On one machine this
/// rule meets every due time (Baruah, Cohen, Plaxton, Varvel, "Proportionate progress", 1996),
/// which is the claim above. The sequence nginx made known needs `weights.len()` steps a position
/// instead of their logarithm, and only promises the counts of a whole round.
fn interleave(weights: &[u64]) -> Vec<usize> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let weights: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let total: u64 = weights.iter().sum();

    let mut turns = vec![0u64; weights.len()];
    let mut waiting: BinaryHeap<_> =
        (0..weights.len()).map(|member| Reverse((0, member))).collect();
    let mut released = BinaryHeap::new();
    let mut sequence = Vec::new();
    for position in 0..total {
        while let Some(&Reverse((release, member))) = waiting.peek() {
            if release > position {
                break;
            }
            waiting.pop();
            let due = ((turns[member] + 1) * total).div_ceil(weights[member]);
            released.push(Reverse((due, release, member)));
        }
        let Some(Reverse((_, _, member))) = released.pop() else { break };
        sequence.push(member);
        turns[member] += 1;
        // A turn due at a broken time is released with the position that contains it, so that
        // the next one may share that position's deadline.
        waiting.push(Reverse((turns[member] * total / weights[member], member)));
    }
    sequence
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use balancer_ebpf::table::MAX_POSITIONS;
    use proptest::prelude::*;

    use super::*;

    fn entries(weights: &[u16]) -> Vec<Entry> {
        (0..).zip(weights).map(|(slot, &weight)| Entry { slot, weight: weight.into() }).collect()
    }

    fn by_weight(weights: &[u16]) -> Table {
        Table::build(&entries(weights), Shares::ByWeight)
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
                let count = sequence.iter().filter(|&&s| s == slot).count() as u64;
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
        assert_eq!(table.sequence.iter().filter(|&&slot| slot == 999).count(), 1);
        assert_eq!(table.sequence.iter().filter(|&&slot| slot == 0).count(), 1000);
    }

    #[test]
    fn round_robin_ignores_weights() {
        assert_eq!(Table::build(&entries(&[5, 3]), Shares::Equal).sequence, [0, 1]);
    }

    #[test]
    fn nobody_makes_an_empty_table() {
        assert_eq!(by_weight(&[]), Table::default());
    }
}
