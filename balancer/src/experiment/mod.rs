//! An experiment on a live server: policies in turn, watched, and what was in force put back at its end.
//!
//! | what | module |
//! | --- | --- |
//! | what the kernel has counted, and between two looks | `reading` |
//! | the load generator of a block | `generator` |
//! | connections that full queues cost | `overflows` |
//! | how far it is | `progress` |
//! | the signals that end it | `stopping` |
//! | a group that is there for its time only | `temporary` |

mod generator;
mod overflows;
mod progress;
mod reading;
mod stopping;
mod temporary;

use std::time::Duration;

use anyhow::Result;
use balancer_lab::live::{
    block::Block,
    guard::{Alarm, Guard, Watch},
    plan::{Plan, Turn},
};
use balancer_steering::{
    options::PolicyOptions,
    policy::Policy,
    steering::{Experiment, Steering},
};
use tokio::time::Instant;

use self::{generator::Generator, reading::Reading};
pub use self::{progress::Progress, stopping::Stopping, temporary::Temporary};
use crate::rules::{self, Refusal};

/// How often requests in flight are looked at.
const SAMPLING: Duration = Duration::from_millis(100);

/// After so many samples the guard looks.
const GUARDING: u32 = 10;

/// A handshake that is under way when a policy is put in force is through so much later: what an earlier
/// policy chose is told by when it is established.
const SETTLING: Duration = Duration::from_millis(500);

/// What is to be run.
pub struct Setting {
    /// Blocks and their order.
    pub plan: Plan,
    /// What takes turns; the first is the baseline.
    pub policies: Vec<(Policy, PolicyOptions)>,
    /// What a policy's p99 may be of the baseline's.
    pub max_worse: f64,
    /// The command of the load generator.
    pub load: Option<String>,
}

/// Whether a group may be switched to a policy as its workers are now.
///
/// # Errors
/// Returns an error if the group cannot be read.
pub fn fits(steering: &Steering, policy: Policy) -> Result<std::result::Result<(), Refusal>> {
    let reloading = steering.group()?.agent.is_alive() && steering.agent_state()?.is_reloading();
    let members = steering.snapshot()?.members;
    Ok(rules::check_policy(steering.name(), policy, &members, reloading))
}

/// What came of it.
pub struct Run {
    /// Blocks that were run to their end.
    pub blocks: Vec<Block>,
    /// Why it ended early.
    pub ended: Option<Ended>,
}

/// Why an experiment ended early.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// By a signal.
    #[error("it was interrupted")]
    Interrupted,
    /// The operator wants something else.
    #[error("another command changed the policy or gave the group back; that is left as it is")]
    Superseded,
    /// Its workers come or go.
    #[error("{0}")]
    Unfit(Refusal),
    /// The server suffers.
    #[error("under {policy} {alarm}")]
    Alarm {
        /// The policy that was in force.
        policy: &'static str,
        /// What is wrong.
        alarm: Alarm,
    },
}

/// How a block ended.
type Outcome = Result<std::result::Result<Block, Ended>>;

/// An experiment that goes on.
pub struct Running<'a> {
    /// The group.
    pub steering: &'a mut Steering,
    /// The right to switch it.
    pub experiment: &'a Experiment,
    /// What is to be run.
    pub setting: &'a Setting,
    /// Where it is said how far it is.
    pub progress: Progress,
    /// What ends it.
    pub stopping: Stopping,
}

impl Running<'_> {
    /// Runs all blocks, and before them one of the baseline that only the guard looks at.
    ///
    /// # Errors
    /// Returns an error if the group cannot be switched or read, or the load generator fails.
    pub async fn run(mut self) -> Result<Run> {
        let mut guard = Guard::new(self.setting.max_worse);
        let mut run = Run { blocks: Vec::new(), ended: None };
        let lead_in = Turn { round: 0, policy: 0 };
        let turns = self.setting.plan.turns();
        let mut clean = true;
        for (at, turn) in [lead_in].into_iter().chain(turns).enumerate() {
            self.progress.block(at, self.setting.policies[turn.policy].0, &run.blocks);
            let block = match self.block(turn, &guard, clean).await? {
                Ok(block) => block,
                Err(ended) => {
                    run.ended = Some(ended);
                    break;
                }
            };
            if turn.policy == 0 {
                guard.baseline(&block.seen_to_answer());
                clean &= block.overflows.is_none_or(|count| count == 0);
            }
            // The first is for the guard alone.
            if at > 0 {
                run.blocks.push(block);
            }
        }
        self.progress.finish();
        Ok(run)
    }

    /// Runs one. `clean`: under the baseline no connection was refused.
    async fn block(&mut self, turn: Turn, guard: &Guard, clean: bool) -> Outcome {
        let (policy, options) = self.setting.policies[turn.policy];
        // Workers may have been drained or replaced since the last block.
        if let Err(why) = fits(self.steering, policy)? {
            return Ok(Err(Ended::Unfit(why)));
        }
        if !self.experiment.switch(self.steering, policy, options)? {
            return Ok(Err(Ended::Superseded));
        }
        let (plan, begun) = (&self.setting.plan, Instant::now());
        // A load generator has ended by now, and the next has not begun.
        let settling = match self.setting.load {
            None => SETTLING.min(plan.burn_in / 2),
            Some(_) => Duration::ZERO,
        };
        if self.stopping.within(settling).await {
            return Ok(Err(Ended::Interrupted));
        }
        if !self.experiment.tell_apart(self.steering)? {
            return Ok(Err(Ended::Superseded));
        }
        let carried_over = reading::open(self.steering)?;
        let mut generator = self.setting.load.as_deref().map(Generator::start).transpose()?;
        if self.stopping.within(plan.burn_in - settling).await {
            return Ok(Err(Ended::Interrupted));
        }
        let before = Reading::take(self.steering)?;
        let (measured, mut sampled) = (Instant::now(), reading::Sampled::default());
        let is_guarded = turn.policy != 0;
        let mut watch = guard.watch();
        let mut told = None;
        for sample in 1.. {
            if self.stopping.within(SAMPLING).await {
                return Ok(Err(Ended::Interrupted));
            }
            self.progress.passed(SAMPLING);
            sampled.add(self.steering)?;
            if is_guarded && sample % GUARDING == 0 {
                let block = before.until(&Reading::take(self.steering)?, turn);
                if let Some(alarm) = alarm(&mut watch, &block, clean) {
                    return Ok(Err(Ended::Alarm { policy: policy.name(), alarm }));
                }
            }
            let is_over = match &mut generator {
                Some(generator) => generator.ended()?.map(|text| told = Some(text)).is_some(),
                None => begun.elapsed() >= plan.block,
            };
            if is_over {
                break;
            }
        }
        let seconds = measured.elapsed().as_secs_f64();
        let mut block = before.until(&Reading::take(self.steering)?, turn);
        sampled.note(&mut block);
        (block.seconds, block.carried_over) = (seconds, carried_over);
        block.generator = told.as_deref().and_then(balancer_lab::generators::told);
        if is_guarded && let Some(alarm) = alarm(&mut watch, &block, clean) {
            return Ok(Err(Ended::Alarm { policy: policy.name(), alarm }));
        }
        Ok(Ok(block))
    }
}

fn alarm(watch: &mut Watch<'_>, block: &Block, clean: bool) -> Option<Alarm> {
    if block.errors > 0 {
        return Some(Alarm::Errors(block.errors));
    }
    if let Some(count) = block.overflows.filter(|count| clean && *count > 0) {
        return Some(Alarm::Lost(count));
    }
    watch.look(&block.seen_to_answer()).err()
}
