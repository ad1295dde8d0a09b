//! How far an experiment is, on standard error: a line with the time left and interim figures, which a
//! terminal sees rewritten; elsewhere a line per round.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    time::Duration,
};

use balancer_lab::live::{block::Block, block::sum, plan::Plan, words};
use balancer_steering::policy::Policy;
use indicatif::{ProgressBar, ProgressStyle};

/// Says it.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    names: Vec<String>,
    rounds: usize,
}

impl Progress {
    /// Of these policies.
    pub fn new(plan: &Plan, names: Vec<String>) -> Self {
        // All blocks, and the one before them, as far as they are measured.
        let expected = (plan.duration() + plan.block).as_millis();
        let bar = ProgressBar::new(u64::try_from(expected).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {eta} left  {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, plain: !stderr().is_terminal(), names, rounds: plan.rounds }
    }

    /// A block begins: the first, or one after so many others.
    pub fn block(&mut self, at: usize, policy: Policy, blocks: &[Block]) {
        let policies = self.names.len();
        // As long as those before: only part of a block counts, or a load generator says when it is over.
        if let Some(each) = self.bar.position().checked_div(at as u64) {
            self.bar.set_length(each * (policies * self.rounds + 1) as u64);
        }
        let round = at.saturating_sub(1) / policies;
        let now = format!("round {} of {}, {}", round + 1, self.rounds, policy.name());
        let figures: Vec<String> = (0..policies).filter_map(|at| self.figure(at, blocks)).collect();
        let figures = if figures.is_empty() {
            String::new()
        } else {
            format!("; p99 {}", figures.join(", "))
        };
        self.bar.set_message(format!("{now}{figures}"));
        if self.plain && at % policies == 1 % policies {
            let _ =
                writeln!(stderr(), "comparing: round {} of {}{figures}", round + 1, self.rounds);
        }
    }

    fn figure(&self, policy: usize, blocks: &[Block]) -> Option<String> {
        let of = blocks.iter().filter(|block| block.policy == policy);
        let all: Vec<_> = of.map(Block::to_answer).collect();
        let p99 = sum(all.iter()).quantile(0.99)?.as_secs_f64();
        Some(format!("{} {}", self.names[policy], words::time(Some(p99))))
    }

    /// So much time of a block has passed.
    pub fn passed(&self, time: Duration) {
        self.bar.inc(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
