//! Which policy is in force in which block. Pure.

use std::time::Duration;

use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// An experiment as it is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many policies take turns.
    pub policies: usize,
    /// Blocks of each.
    pub rounds: usize,
    /// How long a block is.
    pub block: Duration,
    /// How much of its beginning is discarded.
    pub burn_in: Duration,
    /// What the order is drawn from.
    pub seed: u64,
}

/// A block to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its round, from 0.
    pub round: usize,
    /// Which of the policies.
    pub policy: usize,
}

impl Plan {
    /// All blocks in their order. Each round has all policies, in an order of its own.
    pub fn turns(&self) -> Vec<Turn> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut order: Vec<usize> = (0..self.policies).collect();
        let mut turns = Vec::with_capacity(self.policies * self.rounds);
        for round in 0..self.rounds {
            order.shuffle(&mut random);
            turns.extend(order.iter().map(|&policy| Turn { round, policy }));
        }
        turns
    }

    /// How long a round takes.
    pub fn round(&self) -> Duration {
        self.block * u32::try_from(self.policies).unwrap_or(u32::MAX)
    }

    /// How long all takes.
    pub fn duration(&self) -> Duration {
        self.round() * u32::try_from(self.rounds).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_round_has_every_policy_once(policies in 1..8usize, rounds in 1..20usize, seed: u64) {
            let (block, burn_in) = (Duration::from_secs(8), Duration::from_secs(2));
            let turns = Plan { policies, rounds, block, burn_in, seed }.turns();
            prop_assert_eq!(turns.len(), policies * rounds);
            for (round, turns) in turns.chunks(policies).enumerate() {
                let mut seen: Vec<usize> = turns.iter().map(|turn| turn.policy).collect();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..policies).collect::<Vec<_>>());
                prop_assert!(turns.iter().all(|turn| turn.round == round));
            }
        }
    }

    #[test]
    fn the_order_differs_between_rounds_and_is_the_same_for_the_same_seed() {
        let (block, burn_in) = (Duration::from_secs(8), Duration::from_secs(2));
        let plan = Plan { policies: 4, rounds: 10, block, burn_in, seed: 1 };
        let turns = plan.turns();
        assert_eq!(turns, plan.turns());
        let order = |round: &[Turn]| round.iter().map(|turn| turn.policy).collect::<Vec<_>>();
        assert!(turns.chunks(4).any(|round| order(round) != order(&turns[..4])));
        assert_eq!(plan.duration(), Duration::from_secs(320));
    }
}
