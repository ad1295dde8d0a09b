//! Nanoseconds a choice of the policies that look at all members, by how many members there are.

use anyhow::{Context as _, Result};
use balancer_steering::affinity;
use balancer_steering::{policy::Policy, policy_spec::PolicySpec, steering::measure_runs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::{
    bed::Bed,
    cost::{FIXED, nanoseconds},
    progress,
    statistics::{Spread, rotation},
};

/// Up to as many as a group can have.
const SIZES: [usize; 5] = [4, 16, 64, 256, 1024];

const CONTENDERS: [PolicySpec; 3] =
    [FIXED, PolicySpec::plain(Policy::LeastConnections), PolicySpec::plain(Policy::ShortestQueue)];

/// One policy in a group of some size.
#[derive(Serialize)]
pub struct Point {
    /// How many members.
    pub members: usize,
    /// The policy.
    pub policy: PolicySpec,
    /// Nanoseconds a run beyond one of `fixed` in the same round, in the same group.
    pub over_fixed: Spread,
    /// The same, divided by the members.
    pub a_member: Spread,
}

/// Measures groups of all sizes on one CPU.
///
/// # Errors
/// Returns an error if a load fails, or the kernel does not measure.
pub fn measure(rounds: usize, connections: u64) -> Result<Vec<Point>> {
    allow_descriptors()?;
    let cpus = affinity::cpus()?;
    let mut beds = SIZES.into_iter().map(Bed::make).collect::<Result<Vec<_>>>()?;
    let mut runs = vec![[const { Vec::new() }; CONTENDERS.len()]; SIZES.len()];
    let _measuring = measure_runs()?;
    for round in 0..rounds {
        progress::show(format_args!("cost by members: {round} of {rounds} rounds"));
        for (bed, runs) in beds.iter_mut().zip(&mut runs) {
            for index in rotation(CONTENDERS.len(), round) {
                let sample = bed.load(CONTENDERS[index], &cpus[..1], connections)?;
                runs[index].push(nanoseconds(sample.runs));
            }
        }
    }
    progress::clear();
    let points = SIZES.into_iter().zip(&runs).flat_map(|(members, [fixed, others @ ..])| {
        CONTENDERS[1..].iter().zip(others).map(move |(&policy, ours)| Point {
            members,
            policy,
            over_fixed: Spread::of_pairs(ours, fixed, |ours, fixed| ours - fixed),
            a_member: Spread::of_pairs(ours, fixed, |ours, fixed| (ours - fixed) / members as f64),
        })
    });
    Ok(points.collect())
}

/// Room for all listeners, and some connections.
///
/// # Errors
/// Returns an error if the kernel does not allow as many.
pub fn allow_descriptors() -> Result<()> {
    let needed = 2 * SIZES.iter().sum::<usize>() as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let at_least = |limit: Option<u64>| limit.map(|limit| limit.max(needed));
    let limit = Rlimit { current: at_least(current), maximum: at_least(maximum) };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}
