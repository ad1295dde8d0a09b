//! The loads, and what one did to a contender.

use std::borrow::Cow;

use anyhow::{Context as _, Result};
use balancer::error;
use balancer_lab::{
    arrivals::Schedule,
    generator::Load,
    measure::{measure, objection},
    report::Measured,
    scenario::{Arrivals, Scenario, standard},
};
use serde::Serialize;

use crate::{
    contender::Ready,
    network::Network,
    workers::{WORKERS, Workers, worker_of},
};

/// All due at once. Below what a listener's queue holds, and answered well before clients give up.
const AT_ONCE: usize = 2000;

/// The load of which every request is late from the beginning.
const SATURATED: &str = "saturated";

/// How often a trial is begun anew for the generator's sake: it was late because of what else this
/// machine does, or it is late always, and then nothing can be said.
const REPEATS: usize = 10;

/// One load on one contender.
#[derive(Serialize)]
pub struct Trial {
    /// Who had to cope with it.
    pub contender: &'static str,
    /// What was measured; none where `problem` says why.
    pub measured: Option<Measured>,
    /// CPU time of the proxy's processes, in microseconds.
    pub proxy_cpu: Option<u64>,
    /// Why nothing may be concluded from it, if so.
    pub problem: Option<String>,
    /// How often it was begun anew, because the generator was late.
    pub repeated: usize,
}

/// Two loads that `balancer compare` has too, and one for the connections a second.
pub fn loads() -> Vec<Scenario> {
    let mut loads = standard();
    loads.retain(|load| ["short", "long-lived"].contains(&&*load.name));
    let short = loads.iter().find(|load| load.name == "short").cloned();
    loads.extend(short.map(|short| Scenario {
        name: Cow::Borrowed(SATURATED),
        about: Cow::Owned(format!("{AT_ONCE} short connections due at once")),
        arrivals: Arrivals::Bursts { size: AT_ONCE, bursts: 1 },
        requests: AT_ONCE,
        ..short
    }));
    loads
}

/// Where loads are run.
pub struct Bed {
    /// The clients' network.
    pub network: Network,
    /// The workers of all contenders.
    pub workers: Workers,
}

impl Bed {
    /// Runs one trial; what fails is the trial's problem.
    pub fn run(&mut self, ready: &Ready, load: &Scenario, schedule: &Schedule) -> Trial {
        let mut repeated = 0;
        loop {
            let contender = ready.contender.name;
            let (measured, proxy_cpu, late) = match self.measure(ready, schedule.clone()) {
                Ok(measured) => measured,
                Err(error) => {
                    let problem = Some(error::sentence(&error));
                    return Trial { contender, measured: None, proxy_cpu: None, problem, repeated };
                }
            };
            let failed = failures(&measured);
            let late = late.filter(|_| load.name != SATURATED);
            if failed.is_none() && late.is_some() && repeated < REPEATS {
                repeated += 1;
                continue;
            }
            let problem = failed.or(late);
            return Trial { contender, measured: Some(measured), proxy_cpu, problem, repeated };
        }
    }

    /// What a load did, the proxy's CPU time, and whether the generator was late.
    fn measure(
        &mut self,
        ready: &Ready,
        schedule: Schedule,
    ) -> Result<(Measured, Option<u64>, Option<String>)> {
        let _rules = ready.turn(&mut self.workers)?;
        let before = ready.cpu_time();
        let load = self.network.as_client(|| Load::start(ready.address, schedule))??;
        let outcomes = load.outcomes.blocking_recv().context("the generator died")??;
        let used = ready.cpu_time().zip(before);
        let used = used.map(|(after, before)| after.saturating_sub(before).as_micros());
        let proxy_cpu = used.map(u64::try_from).transpose()?;
        Ok((measure(&outcomes, WORKERS, worker_of)?, proxy_cpu, objection(&outcomes.requests)))
    }
}

fn failures(measured: &Measured) -> Option<String> {
    let failed: u64 = measured.errors.values().sum();
    let kinds: Vec<_> = measured.errors.iter().map(|(kind, n)| format!("{kind:?} {n}")).collect();
    (failed > 0).then(|| {
        let kinds = kinds.join(", ").to_lowercase();
        format!("{failed} of {} requests failed ({kinds})", measured.scheduled)
    })
}
