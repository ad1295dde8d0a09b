//! From what became of each request to what a trial measured. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::{
    generator::{Outcome, Outcomes},
    report::{Distribution, ErrorKind, Measured, Share},
};

/// Digits that latencies are kept to.
const DIGITS: u8 = 3;

/// The generator may be this late, or a tenth of the latency if that is more: so much of each
/// latency is its own doing.
const LATE: Duration = Duration::from_millis(1);

/// What a generator that was late has to say; how late is in what was measured.
const OBJECTION: &str = "the generator could not keep its schedule: 1 % of the requests began more \
                         than 1 ms, and more than a tenth of the p99, late";

/// Sums a trial up. `worker_of` tells whose a slot is.
///
/// # Errors
/// Returns an error if a latency is out of any range.
pub fn measure(
    outcomes: &Outcomes,
    workers: usize,
    worker_of: impl Fn(u32) -> Option<usize>,
) -> Result<Measured> {
    let mut latency = Histogram::new(DIGITS).context("no histogram")?;
    let mut lateness = Histogram::new(DIGITS).context("no histogram")?;
    let mut errors: BTreeMap<ErrorKind, u64> = BTreeMap::new();
    let mut shares = vec![Share::default(); workers];
    for worker in outcomes.opened.iter().filter_map(|&slot| worker_of(slot)) {
        if let Some(share) = shares.get_mut(worker) {
            share.connections += 1;
        }
    }
    let outcomes = &outcomes.requests;
    for outcome in outcomes {
        lateness.record(micros(outcome.due, outcome.begun)?)?;
        let slot = match outcome.answer {
            Ok(slot) => slot,
            Err(kind) => {
                *errors.entry(kind).or_default() += 1;
                continue;
            }
        };
        latency.record(micros(outcome.due, outcome.ended)?)?;
        if let Some(share) = slot.and_then(&worker_of).and_then(|worker| shares.get_mut(worker)) {
            share.requests += 1;
            share.connections += u64::from(outcome.first);
        }
    }
    let first = outcomes.iter().map(|outcome| outcome.due).min();
    let last = outcomes.iter().map(|outcome| outcome.ended).max();
    Ok(Measured {
        seconds: first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64()),
        scheduled: outcomes.len() as u64,
        latency: distribution(&latency),
        lateness: distribution(&lateness),
        errors,
        workers: shares,
    })
}

/// Why a trial does not count although it came to its end: the generator could not keep its own
/// schedule, so it measured itself.
pub fn objection(outcomes: &[Outcome]) -> Option<String> {
    let p99 = |mut times: Vec<Duration>| {
        times.sort_unstable();
        let index = (times.len() * 99).div_ceil(100).checked_sub(1)?;
        times.get(index).copied()
    };
    let late = p99(outcomes.iter().map(|o| o.begun.saturating_duration_since(o.due)).collect())?;
    let latency = p99(outcomes.iter().map(|o| o.ended.saturating_duration_since(o.due)).collect())?;
    (late > LATE.max(latency / 10)).then(|| OBJECTION.to_owned())
}

fn micros(from: Instant, to: Instant) -> Result<u64> {
    u64::try_from(to.saturating_duration_since(from).as_micros()).context("a time out of range")
}

fn distribution(histogram: &Histogram<u64>) -> Distribution {
    let recorded = histogram.iter_recorded();
    Distribution(recorded.map(|v| (v.value_iterated_to(), v.count_at_value())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Due at 0, begun and ended so many microseconds later, answered by a slot.
    fn outcome(now: Instant, begun: u64, ended: u64, answer: Result<u32, ErrorKind>) -> Outcome {
        Outcome {
            due: now,
            begun: now + Duration::from_micros(begun),
            ended: now + Duration::from_micros(ended),
            answer: answer.map(Some),
            first: true,
        }
    }

    #[test]
    fn latency_counts_from_when_a_request_was_due() {
        let now = Instant::now();
        let late = Outcome { first: false, ..outcome(now, 400, 900, Ok(7)) };
        let outcomes = [
            outcome(now, 0, 500, Ok(7)),
            late,
            outcome(now, 10, 500, Ok(8)),
            outcome(now, 0, 2_000_000, Err(ErrorKind::Reset)),
        ];
        let outcomes = Outcomes { opened: vec![8, 8, 9], requests: outcomes.to_vec() };
        let worker_of = |slot| (7..9).contains(&slot).then_some(slot as usize - 7);
        let measured = measure(&outcomes, 2, worker_of).unwrap();
        let share = |connections, requests| Share { connections, requests, cpu: 0 };
        let expected = Measured {
            seconds: 2.0,
            scheduled: 4,
            latency: Distribution(vec![(500, 2), (900, 1)]),
            lateness: Distribution(vec![(0, 2), (10, 1), (400, 1)]),
            errors: BTreeMap::from([(ErrorKind::Reset, 1)]),
            workers: vec![share(1, 2), share(3, 1)],
        };
        assert_eq!(measured, expected);
    }

    #[test]
    fn latencies_are_kept_to_three_digits() {
        let now = Instant::now();
        let requests = vec![outcome(now, 0, 1_234_567, Ok(0))];
        let outcomes = Outcomes { opened: Vec::new(), requests };
        let measured = measure(&outcomes, 1, |_| Some(0)).unwrap();
        let [(value, 1)] = measured.latency.0[..] else { unreachable!() };
        assert!(value.abs_diff(1_234_567) < 1_235, "{value}");
    }

    #[test]
    fn a_generator_that_was_late_measured_itself() {
        let now = Instant::now();
        let of = |late, latency, count| {
            let mut outcomes = vec![outcome(now, 0, latency, Ok(0)); 100 - count];
            outcomes.extend(vec![outcome(now, late, latency, Ok(0)); count]);
            objection(&outcomes)
        };
        assert_eq!(of(900, 2000, 100), None);
        assert_eq!(of(1100, 2000, 2).as_deref(), Some(OBJECTION));
        // One in a hundred may be.
        assert_eq!(of(1100, 2000, 1), None);
        // A tenth of the latency hides nothing.
        assert_eq!(of(1100, 12_000, 100), None);
    }
}
