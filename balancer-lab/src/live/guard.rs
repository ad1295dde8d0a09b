//! When an experiment on a live server is to stop at once. Pure.

use std::time::Duration;

use balancer_steering::requests::Histogram;

/// Fewer answers than this say nothing of a p99.
const LEAST_ANSWERS: u64 = 200;

/// As many of the baseline's last blocks say what is usual now: the worst of them.
const USUAL: usize = 3;

/// By so many standard deviations there have to be more slow answers than 1 %, since it is looked again and again.
const DEVIATIONS: f64 = 4.0;

/// What is watched.
#[derive(Clone, Debug)]
pub struct Guard {
    /// How many times the baseline's p99 may be.
    max_worse: f64,
    /// p99 of the baseline's blocks.
    baseline: Vec<Duration>,
}

/// Why to stop.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Alarm {
    /// Answers take too long.
    #[error("p99 rose to {} times the baseline's ({} ms after {} ms), and {max_worse} are allowed",
        round(*.factor), round(.now.as_secs_f64() * 1e3), round(.baseline.as_secs_f64() * 1e3))]
    Worse {
        /// p99 over the baseline's.
        factor: f64,
        /// p99 of the block so far.
        now: Duration,
        /// The baseline's.
        baseline: Duration,
        /// What is allowed.
        max_worse: f64,
    },
    /// Connections were lost.
    #[error(
        "the kernel refused {0} connections because a queue was full, and none under the baseline"
    )]
    Lost(u64),
    /// Choices failed.
    #[error("{0} choices failed by a defect of balancer; please report that")]
    Errors(u64),
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Guard {
    /// Allows a p99 of so many times the baseline's.
    pub fn new(max_worse: f64) -> Self {
        Self { max_worse, baseline: Vec::new() }
    }

    /// Takes in a block of the baseline that is over.
    pub fn baseline(&mut self, to_answer: &Histogram) {
        if to_answer.count() >= LEAST_ANSWERS {
            self.baseline.extend(to_answer.quantile(0.99));
        }
    }

    /// Looks at what another policy's block has seen so far.
    ///
    /// # Errors
    /// Says why to stop.
    pub fn check(&self, to_answer: &Histogram) -> Result<(), Alarm> {
        let usual = self.baseline.iter().rev().take(USUAL).max();
        let (Some(&baseline), Some(now)) = (usual, to_answer.quantile(0.99)) else {
            return Ok(());
        };
        let count = to_answer.count();
        let slow = count - to_answer.below(baseline.mul_f64(self.max_worse));
        let chance = (0.01 * 0.99 * count as f64).sqrt();
        if count < LEAST_ANSWERS || slow as f64 <= 0.01 * count as f64 + DEVIATIONS * chance {
            return Ok(());
        }
        let factor = now.as_secs_f64() / baseline.as_secs_f64();
        Err(Alarm::Worse { factor, now, baseline, max_worse: self.max_worse })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(count: u64, millis: u64) -> Histogram {
        with_slow(count, millis, 0)
    }

    /// And so many of a second.
    fn with_slow(count: u64, millis: u64, slow: u64) -> Histogram {
        let mut histogram = Histogram::default();
        (0..slow).for_each(|_| histogram.record(Duration::from_secs(1)));
        (0..count).for_each(|_| histogram.record(Duration::from_millis(millis)));
        histogram
    }

    #[test]
    fn answers_that_take_too_long_stop_it() {
        let mut guard = Guard::new(2.0);
        guard.baseline(&answers(1000, 10));
        assert_eq!(guard.check(&answers(1000, 19)), Ok(()));
        let alarm = guard.check(&answers(1000, 30)).unwrap_err();
        assert!(alarm.to_string().contains("2 are allowed"), "{alarm}");
    }

    #[test]
    fn too_few_answers_stop_nothing_and_no_baseline_neither() {
        let mut guard = Guard::new(2.0);
        assert_eq!(guard.check(&answers(1000, 30)), Ok(()));
        guard.baseline(&answers(1000, 10));
        assert_eq!(guard.check(&answers(199, 30)), Ok(()));
    }

    #[test]
    fn a_few_slow_answers_more_than_one_in_a_hundred_may_be_chance() {
        let mut guard = Guard::new(2.0);
        guard.baseline(&answers(1000, 10));
        assert_eq!(guard.check(&with_slow(1980, 10, 22)), Ok(()));
        assert!(guard.check(&with_slow(1950, 10, 50)).is_err());
    }

    #[test]
    fn what_is_usual_is_the_worst_of_the_baselines_last_blocks() {
        let mut guard = Guard::new(2.0);
        for millis in [90, 10, 30, 10] {
            guard.baseline(&answers(1000, millis));
        }
        assert_eq!(guard.check(&answers(1000, 55)), Ok(()));
        guard.baseline(&answers(1000, 10));
        guard.baseline(&answers(1000, 10));
        assert!(guard.check(&answers(1000, 55)).is_err());
    }
}
