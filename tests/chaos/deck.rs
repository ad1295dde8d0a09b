//! What is done to the workers and to balancer, in an order drawn from a seed. Pure.

use std::fmt;

use clap::ValueEnum;
use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Something that goes wrong, or that somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Fault {
    /// Another policy.
    Switch,
    /// The plain kernel hash, and back.
    KernelAndBack,
    /// A worker's weight is changed.
    Weigh,
    /// A worker gets nothing new for a while.
    Drain,
    /// All workers are replaced by new ones.
    Reload,
    /// `kill -9` of a worker that was stopped until connections waited in its queue.
    KillQueued,
    /// `kill -9` of a worker in the middle of its work.
    Kill,
    /// A worker is stopped for a while, and goes on.
    Stall,
    /// A worker is told to end.
    Terminate,
    /// One worker more.
    Add,
    /// balancer itself is killed, and another takes over.
    KillAgent,
}

/// Each fault, how many of it are in a deck, and what it is called.
pub const FAULTS: [(Fault, usize, &str); 11] = [
    (Fault::Switch, 100, "policy switched"),
    (Fault::KernelAndBack, 2, "to the kernel's hash and back"),
    (Fault::Weigh, 20, "weight changed"),
    (Fault::Drain, 5, "worker drained and resumed"),
    (Fault::Reload, 16, "reload"),
    (Fault::KillQueued, 10, "worker stopped, then kill -9"),
    (Fault::Kill, 4, "worker kill -9"),
    (Fault::Stall, 5, "worker stopped, then continued"),
    (Fault::Terminate, 4, "worker SIGTERM"),
    (Fault::Add, 1, "worker added"),
    (Fault::KillAgent, 5, "balancer kill -9, taken over"),
];

impl Fault {
    /// Whether another process is balancer after it.
    pub fn concerns_balancer(self) -> bool {
        matches!(self, Self::Add | Self::KillAgent)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FAULTS.iter().find(|(fault, ..)| fault == self).map(|(.., name)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

/// Faults without end, and the chance that each of them needs.
pub struct Deck {
    random: ChaCha8Rng,
    cards: Vec<Fault>,
}

impl Deck {
    /// The same seed gives the same.
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), cards: Vec::new() }
    }

    /// The next; a number for whatever is to be chosen with it; and whether it is a deck's last.
    pub fn draw(&mut self) -> (Fault, usize, bool) {
        if self.cards.is_empty() {
            let all =
                FAULTS.iter().flat_map(|&(fault, count, _)| std::iter::repeat_n(fault, count));
            self.cards = all.collect();
            self.cards.shuffle(&mut self.random);
        }
        // Never empty: it was filled just now.
        let fault = self.cards.pop().unwrap_or(Fault::Switch);
        (fault, self.random.random_range(0..1 << 16), self.cards.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deck_holds_each_fault_as_often_as_it_says_in_an_order_of_the_seeds() {
        let drawn = |seed| {
            let mut deck = Deck::new(seed);
            let mut drawn = Vec::new();
            loop {
                let (fault, _, last) = deck.draw();
                drawn.push(fault);
                if last {
                    return drawn;
                }
            }
        };
        let (first, second) = (drawn(1), drawn(2));
        assert!(first == drawn(1) && first != second);
        for (fault, count, _) in FAULTS {
            assert_eq!(first.iter().filter(|drawn| **drawn == fault).count(), count);
        }
    }
}
