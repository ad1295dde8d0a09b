//! One trial: a load under a contender, and what goes wrong meanwhile as the scenario has it.

use std::{future::pending, time::Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::time::sleep_until;

use super::{
    arrivals::Schedule,
    fault::{Script, Step},
    generator::{Load, Outcomes},
    measure::{measure, objection},
    report::Measured,
    scenario::Fault,
    workers::{Event, Workers},
};

/// Why a trial does not count although it came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// A worker died that should not have.
    Died(String),
    /// The generator was late; so it may not be the next time.
    Late(String),
}

/// Runs one.
///
/// # Errors
/// Returns an error if nothing could be measured.
pub async fn run(
    side: &mut impl Workers,
    schedule: Schedule,
    fault: Fault,
) -> Result<(Measured, Option<Objection>)> {
    side.complete().await?;
    let before = side.cpu_times();
    let load = Load::start(side.address(), schedule)?;
    let mut died = None;
    let outcomes = under_load(side, load, fault, &mut died).await;
    // Whatever came of it: nobody stays stopped.
    for worker in 0..side.count() {
        side.signal(worker, Signal::CONT);
    }
    let outcomes = outcomes?;
    side.complete().await?;

    let mut measured = measure(&outcomes, side.count(), |slot| side.worker_of(slot))?;
    let times = before.into_iter().zip(side.cpu_times());
    for (share, (before, after)) in measured.workers.iter_mut().zip(times) {
        share.cpu = u64::try_from(after.saturating_sub(before).as_micros())?;
    }
    let late = || objection(&outcomes.requests).map(Objection::Late);
    Ok((measured, died.map(Objection::Died).or_else(late)))
}

/// Until the load is through. Notes the first death of a worker that is not of the script.
async fn under_load(
    side: &mut impl Workers,
    mut load: Load,
    fault: Fault,
    died: &mut Option<String>,
) -> Result<Outcomes> {
    let mut script = Script::new(fault, side.count());
    let mut start = None;
    loop {
        tokio::select! {
            began = &mut load.began, if start.is_none() => {
                start = Some(began.context("the generator did not begin")?);
            }
            outcomes = &mut load.outcomes => return outcomes.context("the generator died")?,
            notice = side.next() => match notice? {
                Event::Died(line) => *died = died.take().or(Some(line)),
                Event::Back(worker) => script.back(worker),
                Event::Other => {}
            },
            step = due(start, &script) => {
                match step {
                    Step::Stop(worker) => side.signal(worker, Signal::STOP),
                    Step::Continue(worker) => side.signal(worker, Signal::CONT),
                    Step::Replace(worker) => side.replace(worker),
                }
                script.taken();
            }
        }
    }
}

/// Waits for the next step, or for ever.
async fn due(start: Option<Instant>, script: &Script) -> Step {
    let Some((start, (after, step))) = start.zip(script.next()) else { return pending().await };
    sleep_until((start + after).into()).await;
    step
}
