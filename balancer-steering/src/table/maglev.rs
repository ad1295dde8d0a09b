//! The table of `sticky`: Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer", NSDI 2016), weighted.
//!
//! Every member prefers the positions in an order of its own, and takes turns at claiming the one that
//! it prefers most of those still free. So one that comes or goes changes little for others. A member of
//! twice the weight has its turns twice as often: the `k`-th at the time `k / share`, which depends on
//! nobody else.

use std::{cmp::Reverse, collections::BinaryHeap};

use balancer_common::{
    draw::{self, mix},
    table::MAX_POSITIONS,
};

use super::Entry;

/// Primes, so that whatever the step, it comes by all positions. A table of another length is another
/// for nearly all clients, so it goes by the weights that members have once they are warm.
const SIZES: [u32; 2] = [65_537, 1_048_573];

const _: () = assert!(SIZES[1] <= MAX_POSITIONS);

/// Positions of the member with the least weight, so that rounding is within a hundredth of its share.
const LEAST: u64 = 100;

/// What all shares are taken to divide, nearly, when turns are put in order.
const UNIT: u64 = 1 << 40;

/// Where a member is in its order of preference.
struct Preference {
    position: u32,
    step: u32,
}

impl Preference {
    fn of(key: u32, size: u32) -> Self {
        let below = |seed: u64, limit| draw::wrap(mix(mix(seed) ^ u64::from(key)), limit);
        Self { position: below(1, size), step: 1 + below(2, size - 1) }
    }

    fn next(&mut self, size: u32) -> u32 {
        let position = self.position;
        self.position = (position + self.step) % size;
        position
    }
}

/// Position → slot.
pub fn sequence(entries: &[Entry]) -> Vec<u32> {
    let size = size(entries);
    let mut preferences: Vec<_> =
        entries.iter().map(|entry| Preference::of(entry.key, size)).collect();
    let mut turns: BinaryHeap<_> =
        entries.iter().enumerate().map(|(member, entry)| Reverse((0, entry.key, member))).collect();
    let mut claimed = vec![None; if entries.is_empty() { 0 } else { size as usize }];
    let mut counts = vec![0; entries.len()];
    for _ in 0..claimed.len() {
        let Some(Reverse((_, key, member))) = turns.pop() else { break };
        let free = loop {
            let position = preferences[member].next(size) as usize;
            if claimed[position].is_none() {
                break position;
            }
        };
        claimed[free] = Some(entries[member].slot);
        counts[member] += 1;
        turns.push(Reverse((counts[member] * UNIT / entries[member].share(), key, member)));
    }
    claimed.into_iter().flatten().collect()
}

fn size(entries: &[Entry]) -> u32 {
    let weights = || entries.iter().map(|entry| u64::from(entry.weight));
    let wanted = LEAST * weights().sum::<u64>() / weights().min().unwrap_or(1);
    SIZES.into_iter().find(|&size| u64::from(size) >= wanted).unwrap_or(SIZES[1])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use balancer_common::address::Address;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        slow_start,
        table::tests::{count, entries},
    };

    const CLIENTS: u32 = 100_000;

    /// The slots of as many clients as the promise is for, in a network of theirs.
    fn chosen(entries: &[Entry], network: u32) -> Vec<u32> {
        let sequence = sequence(entries);
        let length = u32::try_from(sequence.len()).unwrap();
        let address = |client: u32| Ipv4Addr::from(network.wrapping_add(client)).octets();
        let clients = (0..CLIENTS).map(|client| Address::v4(address(client)).hash());
        clients.map(|hash| sequence[draw::scale(hash, length) as usize]).collect()
    }

    fn moved(before: &[u32], after: &[u32]) -> f64 {
        let moved = before.iter().zip(after).filter(|(before, after)| before != after).count();
        moved as f64 / f64::from(CLIENTS)
    }

    fn share(entries: &[Entry], slot: u32) -> f64 {
        let total: u64 = entries.iter().map(Entry::share).sum();
        entries[slot as usize].share() as f64 / total as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn shares_are_within_two_percent_of_the_weights_over_100000_clients(
            weights in prop::collection::vec(1..=10u16, 2..9), network: u32,
        ) {
            let entries = entries(&weights);
            let chosen = chosen(&entries, network);
            for slot in 0..u32::try_from(weights.len()).unwrap() {
                let ideal = share(&entries, slot);
                let actual = count(&chosen, slot) as f64 / f64::from(CLIENTS);
                // Of all clients; and of its own share, but for the chance of a fair draw.
                let chance = 4.0 * (ideal * (1.0 - ideal) / f64::from(CLIENTS)).sqrt();
                let off = (actual - ideal).abs();
                prop_assert!(off < 0.02 && off < 0.02 * ideal + chance, "{actual} for {ideal}");
            }
        }

        #[test]
        fn positions_are_within_two_percent_of_the_weights(
            weights in prop::collection::vec(1..=10u16, 1..64),
        ) {
            let entries = entries(&weights);
            let sequence = sequence(&entries);
            for slot in 0..u32::try_from(weights.len()).unwrap() {
                let ideal = share(&entries, slot) * sequence.len() as f64;
                let actual = count(&sequence, slot) as f64;
                prop_assert!((actual - ideal).abs() <= 0.02 * ideal, "{actual} for {ideal}");
            }
        }
    }

    #[test]
    fn when_one_of_n_leaves_at_most_one_and_a_half_nth_of_the_clients_move() {
        for members in 2..=64u16 {
            let all = entries(&vec![1; members.into()]);
            let before = chosen(&all, 0x0a00_0000);
            let mut left = all.clone();
            let gone = left.remove(usize::from(members) / 3).slot;
            let after = chosen(&left, 0x0a00_0000);
            let moved = moved(&before, &after);
            assert!(moved <= 1.5 / f64::from(members), "{moved} of {members}");
            assert!(!after.contains(&gone));
        }
    }

    #[test]
    fn when_a_member_of_any_weight_leaves_little_more_than_its_own_clients_move() {
        let all = entries(&[5, 3, 2, 7, 1, 1, 4]);
        let before = chosen(&all, 0x0a00_0000);
        for gone in 0..all.len() {
            let mut left = all.clone();
            left.remove(gone);
            let moved = moved(&before, &chosen(&left, 0x0a00_0000));
            let share = share(&all, all[gone].slot);
            assert!(moved < 1.5 * share, "{moved} for {share}");
        }
    }

    #[test]
    fn a_successor_in_another_slot_has_the_clients_of_its_predecessor() {
        let before = entries(&[3, 1, 2]);
        let mut after = vec![before[0], before[2], Entry { slot: 7, ..before[1] }];
        let expected: Vec<u32> =
            sequence(&before).into_iter().map(|slot| if slot == 1 { 7 } else { slot }).collect();
        assert_eq!(sequence(&after), expected);
        after[2].key = 9;
        assert_ne!(sequence(&after), expected);
    }

    #[test]
    fn clients_come_back_to_a_worker_that_warms_up_and_move_nowhere_else() {
        let warm = entries(&[1; 8]);
        let mut cold = warm.clone();
        cold[3].factor = slow_start::FULL / 10;
        let (late, early) = (chosen(&warm, 0), chosen(&cold, 0));
        let part = count(&early, 3) as f64 / count(&late, 3) as f64;
        assert!((0.08..0.13).contains(&part), "{part}");
        let back =
            early.iter().zip(&late).filter(|&(&early, &late)| early != 3 && late == 3).count();
        let elsewhere = moved(&early, &late) - back as f64 / f64::from(CLIENTS);
        assert!(elsewhere < 0.02, "{elsewhere}");
    }

    #[test]
    fn weights_far_apart_take_the_larger_table_and_nobody_starves() {
        let mut weights = vec![1000; 999];
        weights.push(1);
        let entries = entries(&weights);
        let sequence = sequence(&entries);
        assert_eq!(sequence.len(), 1_048_573);
        assert!((1..=2).contains(&count(&sequence, 999)));
        // Of weight 1000, rounded up.
        assert!((0..999).all(|slot| (1049..=1050).contains(&count(&sequence, slot))));
        assert_eq!(size(&entries[..650]), 65_537);
    }

    #[test]
    fn a_step_of_any_length_comes_by_all_positions() {
        for size in SIZES {
            assert!((2..1024).all(|divisor| size % divisor != 0), "{size} is no prime");
        }
    }
}
