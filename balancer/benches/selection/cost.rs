//! Nanoseconds a choice, by the kernel's own statistics of the programs.

use anyhow::Result;
use balancer_steering::affinity;
use balancer_steering::{
    policy::Policy,
    policy_spec::PolicySpec,
    steering::{Runs, measure_runs},
};
use serde::Serialize;

use crate::{
    bed::{Bed, Counted},
    progress,
    statistics::{Spread, rotation},
};

/// Chooses nothing: what is left is the measuring.
pub const NOOP: PolicySpec = PolicySpec::plain(Policy::Noop);

/// Chooses slot 0, by the kernel's helper alone.
pub const FIXED: PolicySpec = PolicySpec::plain(Policy::Fixed);

/// One policy under load from some CPUs.
#[derive(Serialize)]
pub struct Cost {
    /// The policy, or a reference.
    pub policy: PolicySpec,
    /// From how many CPUs at once.
    pub cpus: usize,
    /// Nanoseconds a run.
    pub run: Spread,
    /// The same beyond a run of `fixed` in the same round.
    pub over_fixed: Spread,
    /// Connections of all rounds.
    pub connections: u64,
    /// Runs in all rounds.
    pub runs: u64,
    /// Choices in all rounds.
    #[serde(flatten)]
    pub counted: Counted,
}

/// Measures the references and the policies, on one CPU and, if there are more, on all at once.
///
/// # Errors
/// Returns an error if a load fails, or the kernel does not measure.
pub fn measure(
    bed: &mut Bed,
    policies: &[PolicySpec],
    rounds: usize,
    connections: u64,
) -> Result<Vec<Cost>> {
    let cpus = affinity::cpus()?;
    let contenders = [&[NOOP, FIXED], policies].concat();
    let _measuring = measure_runs()?;
    let mut costs = Vec::new();
    for cpus in [&cpus[..1], &cpus[..]].iter().take(cpus.len()) {
        costs.extend(measure_on(bed, &contenders, cpus, rounds, connections)?);
    }
    Ok(costs)
}

fn measure_on(
    bed: &mut Bed,
    contenders: &[PolicySpec],
    cpus: &[usize],
    rounds: usize,
    connections: u64,
) -> Result<Vec<Cost>> {
    let mut runs = vec![Vec::new(); contenders.len()];
    let mut totals = vec![(0, Counted::default()); contenders.len()];
    for round in 0..rounds {
        progress::show(format_args!("cost on {} CPUs: {round} of {rounds} rounds", cpus.len()));
        for index in rotation(contenders.len(), round) {
            let sample = bed.load(contenders[index], cpus, connections)?;
            runs[index].push(nanoseconds(sample.runs));
            totals[index].0 += sample.runs.count;
            totals[index].1 += sample.counted;
        }
    }
    progress::clear();
    let fixed = contenders.iter().position(|&policy| policy == FIXED).unwrap_or_default();
    let fixed = runs[fixed].clone();
    let rows = contenders.iter().zip(runs).zip(totals);
    Ok(rows
        .map(|((&policy, runs), (count, counted))| Cost {
            policy,
            cpus: cpus.len(),
            over_fixed: Spread::of_pairs(&runs, &fixed, |ours, fixed| ours - fixed),
            run: Spread::of(runs),
            connections: connections * rounds as u64,
            runs: count,
            counted,
        })
        .collect())
}

/// A run of those.
pub fn nanoseconds(runs: Runs) -> f64 {
    runs.time.as_nanos() as f64 / runs.count as f64
}
