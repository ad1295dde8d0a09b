//! Connections a second, each policy beside the kernel's own hash.

use anyhow::Result;
use balancer::policy::Policy;
use serde::Serialize;

use crate::{
    bed::{Bed, Counted},
    machine,
    statistics::{Spread, rotation},
};

/// One policy under load from all CPUs.
#[derive(Serialize)]
pub struct Rate {
    /// The policy; the kernel's hash too, against itself: what is noise.
    pub policy: Policy,
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

/// Measures the policies, each beside a load of its own under the kernel's hash.
///
/// # Errors
/// Where a load fails.
pub fn measure(
    bed: &mut Bed,
    policies: &[Policy],
    rounds: usize,
    connections: u64,
) -> Result<Vec<Rate>> {
    let cpus = machine::cpus()?;
    let contenders = [&[Policy::Kernel], policies].concat();
    let mut rates = vec![(Vec::new(), Vec::new()); contenders.len()];
    let mut counted = vec![Counted::default(); contenders.len()];
    // Round 0 warms up.
    for round in 0..=rounds {
        for index in rotation(contenders.len(), round) {
            let mut pair = [(Policy::Kernel, 0.0), (contenders[index], 0.0)];
            // Who comes second finds the caches, the clock and the neighbours another way; so
            // they take turns.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                let sample = bed.load(pair[side].0, &cpus, connections)?;
                pair[side].1 = connections as f64 / sample.elapsed.as_secs_f64();
                if round > 0 && side == 1 {
                    counted[index] += sample.counted;
                }
            }
            if round > 0 {
                rates[index].0.push(pair[0].1);
                rates[index].1.push(pair[1].1);
            }
        }
        eprintln!("connections a second: round {round} of {rounds}");
    }
    let rows = contenders.iter().zip(rates).zip(counted);
    Ok(rows
        .map(|((&policy, (kernel, ours)), counted)| Rate {
            policy,
            of_kernel: Spread::of_pairs(&ours, &kernel, |ours, kernel| ours / kernel),
            rate: Spread::of(ours),
            connections: connections * rounds as u64,
            counted,
        })
        .collect())
}
