//! Which worker is slow: its median time to answer against that of the others, over all blocks. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use statrs::{
    distribution::{ContinuousCDF as _, StudentsT},
    statistics::Statistics as _,
};

use super::block::Block;
use crate::ratio::median;

/// Fewer answers than this in a block say nothing of a worker's median.
const LEAST_ANSWERS: u64 = 20;

/// With fewer blocks nothing is said.
const LEAST_BLOCKS: usize = 5;

/// A worker that is slower by less than this is not worth a sentence.
const LEAST_FACTOR: f64 = 1.25;

/// A worker that takes longer than the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slow {
    /// The worker.
    pub pid: u32,
    /// Its median time to answer over the others' median: the geometric mean of the blocks'.
    pub factor: f64,
    /// Where that is with 95 % confidence, corrected for the number of workers.
    pub low: f64,
    /// As `low`, the upper end.
    pub high: f64,
    /// The blocks that this rests on.
    pub blocks: usize,
}

/// The workers that are slower than the others beyond doubt, the slowest first.
pub fn slow(blocks: &[Block]) -> Vec<Slow> {
    let mut ratios: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for block in blocks {
        let medians = medians(block);
        for (at, (pid, own)) in medians.iter().enumerate() {
            let others = medians.iter().enumerate().filter(|(other, _)| *other != at);
            let mut others: Vec<f64> = others.map(|(_, (_, median))| *median).collect();
            if !others.is_empty() {
                ratios.entry(*pid).or_default().push((own / median(&mut others)).ln());
            }
        }
    }
    let workers = ratios.len();
    let mut slow: Vec<Slow> =
        ratios.iter().filter_map(|(pid, logs)| judge(*pid, logs, workers)).collect();
    slow.sort_by(|one, other| other.factor.total_cmp(&one.factor));
    slow
}

/// The median time to answer of each worker that has answered enough, in seconds.
fn medians(block: &Block) -> Vec<(u32, f64)> {
    // A worker is as slow to connections that an earlier policy chose.
    let seen = block.members.iter().map(|part| (part.pid, part.seen_to_answer()));
    let enough = seen.filter(|(_, answers)| answers.count() >= LEAST_ANSWERS);
    enough.filter_map(|(pid, answers)| Some((pid, answers.quantile(0.5)?.as_secs_f64()))).collect()
}

fn judge(pid: u32, logs: &[f64], workers: usize) -> Option<Slow> {
    if logs.len() < LEAST_BLOCKS {
        return None;
    }
    let count = logs.len() as f64;
    let (mean, deviation) = (logs.mean(), logs.std_dev());
    let t = StudentsT::new(0.0, 1.0, count - 1.0).ok()?;
    let around = t.inverse_cdf(1.0 - 0.025 / workers as f64) * deviation / count.sqrt();
    let [factor, low, high] = [mean, mean - around, mean + around].map(f64::exp);
    (low > LEAST_FACTOR).then_some(Slow { pid, factor, low, high, blocks: logs.len() })
}
