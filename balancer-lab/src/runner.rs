//! Runs a comparison: trials interleaved, round by round, so that a slow spell of the machine hits
//! every contender alike; whatever fails is noted, and the rest goes on.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, anyhow};

use super::{
    arrivals::{Schedule, schedule},
    contender::Contender,
    report::{Compared, Measured, Report, SCHEMA, Trial},
    scenario::Scenario,
    trial::{self, Objection},
    workers::Bed,
};
use crate::machine::Machine;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// The contenders.
    pub contenders: Vec<Contender>,
    /// Trials of each contender in each scenario.
    pub rounds: usize,
    /// What arrivals and service times are drawn from.
    pub seed: u64,
    /// Where a bpffs is mounted.
    pub bpffs: PathBuf,
}

/// Hears how far it is.
pub trait Progress {
    /// A trial begins.
    fn trial(&mut self, scenario: &str, contender: Contender, round: usize);
    /// A trial that was expected to take so long is through.
    fn passed(&mut self, expected: Duration);
}

impl Plan {
    /// Those of the contenders that a scenario tells from the others, and those it does not.
    fn under(&self, scenario: &Scenario) -> (Vec<Contender>, Vec<Contender>) {
        self.contenders.iter().partition(|contender| contender.differs(scenario, &self.contenders))
    }

    /// How many trials there are, unless some are run again.
    fn trials(&self) -> usize {
        let contenders = self.scenarios.iter().map(|scenario| self.under(scenario).0.len());
        contenders.sum::<usize>() * self.rounds
    }

    /// How long the loads of all trials take, if nothing comes between.
    ///
    /// # Errors
    /// Returns an error if a scenario's numbers make no sense.
    pub fn duration(&self, cpus: usize) -> Result<Duration> {
        let mut whole = Duration::ZERO;
        for scenario in &self.scenarios {
            let contenders = u32::try_from(self.under(scenario).0.len())?;
            for round in 0..self.rounds {
                let schedule = schedule(scenario, cpus, self.seed, round as u64)?;
                whole += expected(&schedule) * contenders;
            }
        }
        Ok(whole)
    }
}

/// Where the generator was late, a trial is run again, for one in so many altogether: a machine that
/// is never quiet for long shall not make it endless.
const REPEATS: usize = 5;

/// How long a trial takes at least, with what goes on around it.
fn expected(schedule: &Schedule) -> Duration {
    const AROUND: Duration = Duration::from_millis(50);
    schedule.requests.last().map_or(Duration::ZERO, |last| last.due) + AROUND
}

/// Runs everything on beds of this kind, or until `interrupted`. The report has what was measured by then.
///
/// # Errors
/// Returns an error if a scenario's numbers make no sense.
pub async fn run<B: Bed>(
    plan: &Plan,
    machine: Machine,
    progress: &mut impl Progress,
    interrupted: impl Future<Output = ()>,
) -> Result<Report> {
    let cpus = machine.cpus;
    let mut report = Report {
        schema: SCHEMA,
        balancer: env!("CARGO_PKG_VERSION").to_owned(),
        machine,
        seed: plan.seed,
        rounds: plan.rounds,
        interrupted: false,
        contenders: plan.contenders.clone(),
        scenarios: Vec::new(),
    };
    let all = async {
        let mut repeats = plan.trials() / REPEATS;
        for scenario in &plan.scenarios {
            let (contenders, without) = plan.under(scenario);
            let compared = Compared { scenario: scenario.clone(), without, trials: Vec::new() };
            report.scenarios.push(compared);
            if let Some(compared) = report.scenarios.last_mut() {
                let under = Under { plan, scenario, contenders: &contenders, cpus };
                under.compare::<B>(&mut compared.trials, &mut repeats, progress).await?;
            }
        }
        anyhow::Ok(())
    };
    let ended = tokio::select! {
        result = all => Some(result?),
        () = interrupted => None,
    };
    report.interrupted = ended.is_none();
    Ok(report)
}

/// A scenario to compare under.
#[derive(Clone, Copy)]
struct Under<'a> {
    plan: &'a Plan,
    scenario: &'a Scenario,
    contenders: &'a [Contender],
    cpus: usize,
}

impl Under<'_> {
    /// All rounds.
    async fn compare<B: Bed>(
        self,
        trials: &mut Vec<Trial>,
        repeats: &mut usize,
        progress: &mut impl Progress,
    ) -> Result<()> {
        let Self { plan, scenario, contenders, cpus } = self;
        let mut bed = B::start(scenario, &plan.bpffs).await;
        for round in 0..plan.rounds {
            let schedule = schedule(scenario, cpus, plan.seed, round as u64)?;
            // Each begins with the next contender, so that none always follows the same one.
            for turn in 0..contenders.len() {
                let contender = contenders[(turn + round) % contenders.len()];
                progress.trial(&scenario.name, contender, round);
                if bed.is_err() {
                    // What was in the way may have gone.
                    bed = B::start(scenario, &plan.bpffs).await;
                }
                loop {
                    let result = self.trial(&mut bed, contender, &schedule).await;
                    let again = matches!(result, Ok((_, Some(Objection::Late(_))))) && *repeats > 0;
                    trials.push(noted(round, contender, result));
                    if !again {
                        break;
                    }
                    *repeats -= 1;
                }
                progress.passed(expected(&schedule));
            }
        }
        if let Ok(bed) = bed {
            bed.stop().await;
        }
        Ok(())
    }

    async fn trial<B: Bed>(
        &self,
        bed: &mut Result<B>,
        contender: Contender,
        schedule: &Schedule,
    ) -> Result<(Measured, Option<Objection>)> {
        let bed =
            bed.as_mut().map_err(|error| anyhow!("the workers cannot be started: {error:#}"))?;
        trial::run(bed.side(contender)?, schedule.clone(), self.scenario.fault).await
    }
}

fn noted(
    round: usize,
    contender: Contender,
    result: Result<(Measured, Option<Objection>)>,
) -> Trial {
    let (measured, invalid) = match result {
        Ok((measured, None)) => (Some(measured), None),
        Ok((measured, Some(Objection::Died(reason) | Objection::Late(reason)))) => {
            (Some(measured), Some(reason))
        }
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    Trial { round, contender, invalid, measured }
}
