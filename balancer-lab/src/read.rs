//! Reads a comparison back.

use anyhow::{Context as _, Result, ensure};
use balancer_common::{MAX_MEMBERS, MAX_WEIGHT};
use serde::Deserialize;

use super::report::{Compared, Measured, Report, SCHEMA, Share};

/// What every version of the form has.
#[derive(Deserialize)]
struct Versioned {
    schema: u32,
}

/// Reads a comparison from JSON.
///
/// # Errors
/// Returns an error if it is no comparison, or one of a form that this build does not know.
pub fn report(json: &str) -> Result<Report> {
    let Versioned { schema } =
        serde_json::from_str(json).context("it is not JSON of `balancer compare`")?;
    ensure!(
        schema == SCHEMA,
        "its format is version {schema}, and this balancer reads version {SCHEMA}"
    );
    let report = serde_json::from_str(json).map_err(Into::into);
    report.and_then(|report| check(&report).map(|()| report)).context("it is damaged")
}

/// Refuses what nothing measured: it would be analysed in sums beyond all numbers, and drawn in more
/// memory than there is.
fn check(report: &Report) -> Result<()> {
    for (index, contender) in report.contenders.iter().enumerate() {
        let again = report.contenders[..index].contains(contender);
        ensure!(!again, "{contender} is twice among the contenders");
    }
    ensure!(report.machine.load_average.is_finite(), "the load average is not a finite number");
    for Compared { scenario, trials, .. } in &report.scenarios {
        let (name, workers) = (&scenario.name, scenario.workers);
        ensure!((1..=MAX_MEMBERS as usize).contains(&workers), "{name} has {workers} workers");
        let weight = scenario.weights.iter().find(|weight| !(1..=MAX_WEIGHT).contains(weight));
        ensure!(weight.is_none(), "{name} has a worker of weight {weight:?}");
        for trial in trials {
            let round = trial.round;
            ensure!(round < report.rounds, "{name} has a trial of round {round}");
            let most = trial.measured.iter().flat_map(counts).max().unwrap_or_default();
            ensure!(u32::try_from(most).is_ok(), "round {round} of {name} has a count of {most}");
        }
    }
    Ok(())
}

/// Whatever is summed up.
fn counts(measured: &Measured) -> impl Iterator<Item = u64> {
    let Measured { scheduled, latency, lateness, errors, workers, .. } = measured;
    let seen = latency.0.iter().chain(&lateness.0).map(|&(_, count)| count);
    let had = workers
        .iter()
        .flat_map(|&Share { connections, requests, cpu }| [connections, requests, cpu]);
    [*scheduled].into_iter().chain(seen).chain(errors.values().copied()).chain(had)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contender::STANDARD;

    /// Two scenarios, four contenders, six rounds, with trials that do not count and requests
    /// without an answer.
    pub fn example() -> Report {
        report(include_str!("../tests/fixtures/compare.json")).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut written = example();
        written.scenarios[0].without = written.contenders[2..].to_vec();
        let more = STANDARD.into_iter().filter(|new| !example().contenders.contains(new));
        written.contenders.extend(more);
        for read in [example(), written] {
            assert_eq!(report(&serde_json::to_string(&read).unwrap()).unwrap(), read);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_figure_is_read_back_to_its_last_digit(seconds in 0.0..=f64::MAX) {
            let mut written = example();
            let measured = written.scenarios[0].trials[0].measured.get_or_insert_default();
            measured.seconds = seconds;
            let read = report(&serde_json::to_string(&written).unwrap()).unwrap();
            prop_assert_eq!(read, written);
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_and_both_are_named() {
        // A later form need not look like this one.
        let refusal = report(r#"{"schema": 99, "rounds": "many"}"#).unwrap_err().to_string();
        assert_eq!(refusal, "its format is version 99, and this balancer reads version 1");
    }

    #[test]
    fn what_nothing_measured_is_refused_by_what_it_is() {
        let refusal = |change: fn(&mut Report)| {
            let mut report = example();
            change(&mut report);
            let refusal = super::report(&serde_json::to_string(&report).unwrap()).unwrap_err();
            format!("{refusal:#}")
        };
        for (refusal, says) in [
            (refusal(|report| report.scenarios[0].scenario.workers = 0), "few has 0 workers"),
            (refusal(|report| report.scenarios[0].scenario.workers = 9999), "has 9999 workers"),
            (refusal(|report| report.scenarios[1].scenario.weights = vec![1, 0].into()), "weight"),
            (refusal(|report| report.rounds = 5), "a trial of round 5"),
            (refusal(|report| report.contenders.push(report.contenders[0])), "kernel is twice"),
        ] {
            assert!(refusal.contains("damaged") && refusal.contains(says), "{refusal}");
        }
        let mut report = example();
        for _ in 0..2 {
            let latency = &mut report.scenarios[0].trials[0].measured.as_mut().unwrap().latency;
            latency.0.push((u64::MAX, u64::MAX / 2));
        }
        let refusal = super::report(&serde_json::to_string(&report).unwrap()).unwrap_err();
        assert!(format!("{refusal:#}").contains("a count of 9223372036854775807"), "{refusal:#}");
    }

    #[test]
    fn what_is_no_comparison_is_refused() {
        for other in ["", "[]", r#"{"policy": "hash"}"#] {
            assert!(report(other).unwrap_err().to_string().contains("not JSON"), "{other}");
        }
        let damaged = report(r#"{"schema": 1, "seed": "x"}"#).unwrap_err();
        assert!(format!("{damaged:#}").contains("damaged: invalid type"), "{damaged:#}");
    }
}
