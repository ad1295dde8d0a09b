//! When an experiment on a live server is to stop at once. Pure.

use std::time::Duration;

use balancer_steering::requests::Histogram;

/// Fewer answers than this say nothing of a p99.
const LEAST_ANSWERS: u64 = 200;

/// As many of the baseline's last blocks say what is usual now: the worst of them.
const USUAL: usize = 3;

/// Fewer looks do not tell a burst from what lasts.
const LEAST_LOOKS: u32 = 3;

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

    /// Begins to watch a block of another policy.
    pub fn watch(&self) -> Watch<'_> {
        Watch { guard: self, seen: Histogram::default(), looks: 0, worse: 0 }
    }
}

/// A block that is watched.
#[derive(Clone, Debug)]
pub struct Watch<'a> {
    guard: &'a Guard,
    /// By the last look.
    seen: Histogram,
    looks: u32,
    /// Looks since whose predecessor answers took too long.
    worse: u32,
}

impl Watch<'_> {
    /// Looks at what the block has seen so far. Answers take too long if they do by more than chance, and did
    /// at most looks: what else this host does comes in bursts.
    ///
    /// # Errors
    /// Says why to stop.
    pub fn look(&mut self, to_answer: &Histogram) -> Result<(), Alarm> {
        let usual = self.guard.baseline.iter().rev().take(USUAL).max();
        let (Some(&baseline), Some(now)) = (usual, to_answer.quantile(0.99)) else {
            return Ok(());
        };
        let max_worse = self.guard.max_worse;
        let bound = baseline.mul_f64(max_worse);
        let slow = |answers: &Histogram| (answers.count() - answers.below(bound)) as f64;
        let since = to_answer.since(&self.seen);
        self.seen.clone_from(to_answer);
        self.looks += 1;
        self.worse += u32::from(slow(&since) > 0.01 * since.count() as f64);
        let count = to_answer.count();
        let expected = 0.01 * count as f64;
        let beyond_chance = slow(to_answer) > expected + DEVIATIONS * (0.99 * expected).sqrt();
        let lasts = self.looks >= LEAST_LOOKS && self.worse * 2 > self.looks;
        if count < LEAST_ANSWERS || !beyond_chance || !lasts {
            return Ok(());
        }
        let factor = now.as_secs_f64() / baseline.as_secs_f64();
        Err(Alarm::Worse { factor, now, baseline, max_worse })
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

    /// Allows twice, after blocks of the baseline with these times.
    fn guard(millis: &[u64]) -> Guard {
        let mut guard = Guard::new(2.0);
        millis.iter().for_each(|&millis| guard.baseline(&answers(1000, millis)));
        guard
    }

    /// What comes of a block that sees this in each of its seconds, one after another.
    fn block(guard: &Guard, seconds: &[Histogram]) -> Result<(), Alarm> {
        let (mut watch, mut sum) = (guard.watch(), Histogram::default());
        seconds.iter().try_for_each(|second| {
            sum += second;
            watch.look(&sum)
        })
    }

    #[test]
    fn answers_that_take_too_long_stop_it() {
        let guard = guard(&[10]);
        assert_eq!(block(&guard, &[(); 9].map(|()| answers(1000, 19))), Ok(()));
        let alarm = block(&guard, &[(); 3].map(|()| answers(1000, 30))).unwrap_err();
        assert!(alarm.to_string().contains("2 are allowed"), "{alarm}");
    }

    #[test]
    fn too_few_answers_stop_nothing_and_no_baseline_neither() {
        assert_eq!(block(&guard(&[]), &[(); 9].map(|()| answers(1000, 30))), Ok(()));
        assert_eq!(block(&guard(&[10]), &[(); 9].map(|()| answers(20, 30))), Ok(()));
    }

    #[test]
    fn a_few_slow_answers_more_than_one_in_a_hundred_may_be_chance() {
        let guard = guard(&[10]);
        assert_eq!(block(&guard, &[(); 3].map(|()| with_slow(660, 10, 8))), Ok(()));
        assert!(block(&guard, &[(); 3].map(|()| with_slow(650, 10, 17))).is_err());
    }

    #[test]
    fn a_burst_stops_nothing_and_what_lasts_does() {
        let guard = guard(&[10]);
        let mut seconds = [(); 8].map(|()| answers(300, 10));
        seconds[2] = answers(300, 90);
        seconds[3] = answers(300, 90);
        assert_eq!(block(&guard, &seconds), Ok(()));
        seconds[4] = answers(300, 90);
        assert!(block(&guard, &seconds).is_err());
    }

    #[test]
    fn what_is_usual_is_the_worst_of_the_baselines_last_blocks() {
        let slow = [(); 3].map(|()| answers(1000, 55));
        assert_eq!(block(&guard(&[90, 10, 30, 10]), &slow), Ok(()));
        assert!(block(&guard(&[90, 10, 30, 10, 10, 10]), &slow).is_err());
    }
}
