//! Connections a second, each policy beside the kernel's own hash.

use anyhow::Result;
use balancer::{machine, policy::Policy, tuned::TunedPolicy};
use serde::Serialize;

use crate::{
    bed::{Bed, Counted},
    progress,
    statistics::{Spread, rotation},
};

/// One policy under load from all CPUs.
#[derive(Serialize)]
pub struct Rate {
    /// The policy; the kernel's hash too, against itself: what is noise.
    pub policy: TunedPolicy,
    /// Connections a second.
    pub rate: Spread,
    /// The same as a part of what the kernel's hash reached right before or after.
    pub of_kernel: Spread,
    /// Connections of all rounds.
    pub connections: u64,
    /// Choices in all rounds.
    #[serde(flatten)]
    pub counted: Counted,
}

const KERNEL: TunedPolicy = TunedPolicy::plain(Policy::Kernel);

/// In a pair of the kernel's hash and a policy.
const OURS: usize = 1;

/// Measures the policies, each beside a load of its own under the kernel's hash.
///
/// # Errors
/// Where a load fails.
pub fn measure(
    bed: &mut Bed,
    policies: &[TunedPolicy],
    rounds: usize,
    connections: u64,
) -> Result<Vec<Rate>> {
    let cpus = machine::cpus()?;
    let contenders = [&[KERNEL], policies].concat();
    let mut rates = vec![[const { Vec::new() }; 2]; contenders.len()];
    let mut counted = vec![Counted::default(); contenders.len()];
    for round in 0..rounds {
        progress::show(format_args!("connections a second: {round} of {rounds} rounds"));
        for index in rotation(contenders.len(), round) {
            let pair = [KERNEL, contenders[index]];
            // Who comes second finds the caches another way; so they take turns.
            for side in rotation(pair.len(), round) {
                let sample = bed.load(pair[side], &cpus, connections)?;
                rates[index][side].push(connections as f64 / sample.elapsed.as_secs_f64());
                if side == OURS {
                    counted[index] += sample.counted;
                }
            }
        }
    }
    progress::clear();
    let rows = contenders.iter().zip(rates).zip(counted);
    Ok(rows
        .map(|((&policy, [kernel, ours]), counted)| Rate {
            policy,
            of_kernel: Spread::of_pairs(&ours, &kernel, |ours, kernel| ours / kernel),
            rate: Spread::of(ours),
            connections: connections * rounds as u64,
            counted,
        })
        .collect())
}
