//! Connections a second, beside those of the kernel's own hash with nothing of balancer's on the machine:
//! by each policy, and to a listener that is nobody's member while groups are steered.

use std::fmt;

use anyhow::Result;
use balancer_steering::affinity;
use balancer_steering::policy_spec::PolicySpec;
use serde::{Serialize, Serializer};

use crate::{
    bed::{Bed, Counted, To},
    load::Work,
    progress,
    statistics::{Spread, rotation},
};

/// What is compared with the kernel's hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// The kernel's hash itself: what is noise.
    Kernel,
    /// A policy, connections counted.
    Policy(PolicySpec),
    /// A listener of another server, while so many groups are steered.
    Beside(usize),
}

/// One contender under load from all CPUs.
#[derive(Serialize)]
pub struct Rate {
    /// Which.
    pub contender: Contender,
    /// What each connection is for.
    pub work: Work,
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

/// Groups beside which a stranger is measured.
const BESIDE: [usize; 2] = [1, 20];

/// Measures the policies, and those beside them, each next to a load of its own under the kernel's hash.
///
/// # Errors
/// Returns an error if a load fails.
pub fn measure(
    bed: &mut Bed,
    policies: &[PolicySpec],
    rounds: usize,
    connections: u64,
) -> Result<Vec<Rate>> {
    let cpus = affinity::cpus()?;
    let policies = policies.iter().copied().map(Contender::Policy);
    let contenders: Vec<_> = [Contender::Kernel]
        .into_iter()
        .chain(policies)
        .chain(BESIDE.map(Contender::Beside))
        .flat_map(|contender| [(contender, Work::Nothing), (contender, Work::Request)])
        .collect();
    let mut rates = vec![[const { Vec::new() }; 2]; contenders.len()];
    let mut counted = vec![Counted::default(); contenders.len()];
    for round in 0..rounds {
        progress::show(format_args!("connections a second: {round} of {rounds} rounds"));
        for index in rotation(contenders.len(), round) {
            let (contender, work) = contenders[index];
            // The second one finds the caches another way; so they take turns.
            for side in rotation(2, round) {
                let ours = side == 1;
                let before = contender.prepare(bed, ours)?;
                let elapsed = bed.time(contender.to(), work, &cpus, connections)?;
                rates[index][side].push(connections as f64 / elapsed.as_secs_f64());
                if let Some(before) = before {
                    counted[index] += bed.counted()? - before;
                }
            }
        }
    }
    progress::clear();
    let rows = contenders.iter().zip(rates).zip(counted);
    Ok(rows
        .map(|((&(contender, work), [kernel, ours]), counted)| Rate {
            contender,
            work,
            of_kernel: Spread::of_pairs(&ours, &kernel, |ours, kernel| ours / kernel),
            rate: Spread::of(ours),
            connections: connections * rounds as u64,
            counted,
        })
        .collect())
}

impl Contender {
    fn to(self) -> To {
        if matches!(self, Self::Beside(_)) { To::Stranger } else { To::Members }
    }

    /// Makes the bed as it is to be; what a policy has counted before.
    fn prepare(self, bed: &mut Bed, ours: bool) -> Result<Option<Counted>> {
        match self {
            Self::Policy(policy) if ours => {
                bed.steer_groups(1)?;
                bed.set_policy(policy)?;
                bed.counted().map(Some)
            }
            Self::Beside(groups) if ours => bed.steer_groups(groups).map(|()| None),
            _ => bed.steer_groups(0).map(|()| None),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("kernel"),
            Self::Policy(policy) => policy.fmt(f),
            Self::Beside(1) => f.write_str("another server beside 1 group"),
            Self::Beside(groups) => write!(f, "another server beside {groups} groups"),
        }
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
