//! A sequence in which everybody comes up as often as their share says, evenly spread.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Rem};

/// The order of one round in which member `i` appears `shares[i]` times (after division by the
/// common divisor, and rounded where the round would be longer than `limit`) and every prefix of
/// length `t` has it `t · share / total` times, rounded down or up: as even as whole numbers allow.
///
/// A member's `k`-th turn is a job of length 1, released at `k · total / share` and due at
/// `(k + 1) · total / share`; the released job that is due first goes next, of several the one
/// that has waited longest. On one machine this
/// rule meets every due time (Baruah, Cohen, Plaxton, Varvel, "Proportionate progress", 1996),
/// which is the claim above. The sequence nginx made known needs `shares.len()` steps a position
/// instead of their logarithm, and only promises the counts of a whole round.
pub fn interleave(shares: &[u64], limit: usize) -> Vec<usize> {
    let shares = fitted(shares, limit as u64);
    let total: u64 = shares.iter().sum();

    let mut turns = vec![0u64; shares.len()];
    let mut waiting: BinaryHeap<_> = (0..shares.len()).map(|member| Reverse((0, member))).collect();
    let mut released = BinaryHeap::new();
    let mut sequence = Vec::new();
    for position in 0..total {
        while let Some(&Reverse((release, member))) = waiting.peek() {
            if release > position {
                break;
            }
            waiting.pop();
            let due = ((turns[member] + 1) * total).div_ceil(shares[member]);
            released.push(Reverse((due, release, member)));
        }
        let Some(Reverse((_, _, member))) = released.pop() else { break };
        sequence.push(member);
        turns[member] += 1;
        // A turn due at a broken time is released with the position that contains it, so that
        // the next one may share that position's deadline.
        waiting.push(Reverse((turns[member] * total / shares[member], member)));
    }
    sequence
}

/// Divides shares, which are not 0, so that their sum is at most `limit`: without a remainder if that
/// will do, else rounded, but never to 0.
fn fitted(shares: &[u64], limit: u64) -> Vec<u64> {
    let total: u64 = shares.iter().sum();
    let divisor = shares.iter().copied().fold(0, gcd).max(1);
    if total / divisor <= limit {
        return shares.iter().map(|share| share / divisor).collect();
    }
    let room = limit.saturating_sub(shares.len() as u64);
    shares.iter().map(|share| 1 + share * room / total).collect()
}

/// The greatest common divisor.
pub fn gcd<N: Copy + Default + PartialEq + Rem<Output = N>>(a: N, b: N) -> N {
    if b == N::default() { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_that_do_not_fit_are_rounded_and_nobody_is_left_out(
            shares in prop::collection::vec(1..=20_000u64, 1..60), limit in 60..3000u64,
        ) {
            let total: u64 = shares.iter().sum();
            let fitted = fitted(&shares, limit);
            let length: u64 = fitted.iter().sum();
            prop_assert!(length <= limit && fitted.iter().all(|&share| share > 0));
            for (&share, &count) in shares.iter().zip(&fitted) {
                let ideal = (share * length) as f64 / total as f64;
                prop_assert!((count as f64 - ideal).abs() <= 2.0, "{count} for {ideal}");
            }
        }
    }
}
