//! What a comparison says: of each scenario and contender the figures, and against the kernel's
//! hash. Invalid trials are named, and enter no figure.

use std::collections::BTreeMap;

use super::{
    contender::{Contender, KERNEL},
    evenness,
    load::{Load, expected, sums},
    ratio::{Ratio, median},
    report::{Compared, Distribution, Measured, Report, Share},
    scenario::Scenario,
    standing::{Against, QUANTILES, Spread, Standing},
    theory::Theory,
    verdict,
};

/// Only in these is a connection chosen independently of what became of others.
const TESTED_FOR_CHANCE: [&str; 2] = ["few", "short"];

/// A comparison, analysed.
#[derive(Clone, Debug)]
pub struct Analysis<'a> {
    /// Its scenarios.
    pub scenarios: Vec<Outcome<'a>>,
}

/// A scenario, analysed.
#[derive(Clone, Debug)]
pub struct Outcome<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// How each contender did, in the order of the report.
    pub standings: Vec<Standing<'a>>,
    /// What theory says of it, if anything.
    pub theory: Option<Theory>,
    /// What holds of all, if anything.
    pub conclusion: Option<&'static str>,
}

/// A trial that counts.
type Valid<'a> = (usize, &'a Measured);

impl<'a> Analysis<'a> {
    /// Analyses a comparison.
    pub fn of(report: &'a Report) -> Self {
        let outcome = |compared| Outcome::of(compared, report);
        Self { scenarios: report.scenarios.iter().map(outcome).collect() }
    }
}

impl<'a> Outcome<'a> {
    fn of(compared: &'a Compared, report: &Report) -> Self {
        let kernel = valid(compared, KERNEL);
        let here =
            report.contenders.iter().filter(|contender| !compared.without.contains(contender));
        let standing = |&contender| Standing::of(compared, contender, &kernel, report.seed);
        let mut standings: Vec<_> = here.map(standing).collect();
        let baseline = standings.iter().find(|standing| standing.contender == KERNEL).cloned();
        for standing in &mut standings {
            standing.verdict = verdict::sentence(standing, baseline.as_ref(), &compared.scenario);
        }
        let conclusion = verdict::conclusion(&standings);
        let theory = Theory::of(&compared.scenario, report.machine.cpus);
        Self { scenario: &compared.scenario, standings, theory, conclusion }
    }
}

impl<'a> Standing<'a> {
    fn of(compared: &'a Compared, contender: Contender, kernel: &[Valid<'_>], seed: u64) -> Self {
        let scenario = &compared.scenario;
        let trials = valid(compared, contender);
        let measured = || trials.iter().map(|&(_, measured)| measured);
        let mut errors = BTreeMap::new();
        for (&kind, count) in measured().flat_map(|measured| &measured.errors) {
            *errors.entry(kind).or_default() += count;
        }
        let workers = |what: fn(&Share) -> u64| -> Vec<Vec<u64>> {
            let of = |m: &Measured, worker| m.workers.get(worker).map_or(0, what);
            measured()
                .map(|m| (0..scenario.workers).map(|worker| of(m, worker)).collect())
                .collect()
        };
        let expected = expected(scenario, contender);
        let connections = workers(|share| share.connections);
        let tested = TESTED_FOR_CHANCE.contains(&&*scenario.name);
        Self {
            contender,
            valid: trials.len(),
            invalid: invalid(compared, contender),
            scheduled: measured().map(|measured| measured.scheduled).sum(),
            latency: Distribution::merged(measured().map(|measured| &measured.latency)),
            quantiles: QUANTILES
                .map(|(_, part)| Spread::of(measured().filter_map(|m| quantile(m, part)))),
            throughput: Spread::of(measured().filter_map(throughput)),
            errors,
            chance: tested
                .then(|| evenness::chance(&sums(&connections, &expected), &expected))
                .flatten(),
            connections: Load::of(&connections, &expected),
            requests: Load::of(&workers(|share| share.requests), &expected),
            cpu: Load::of(&workers(|share| share.cpu), &expected),
            against: match contender {
                KERNEL => Against::default(),
                _ => Against::of(&trials, kernel, seed),
            },
            verdict: String::new(),
        }
    }

    /// How many requests have no answer.
    pub fn unanswered(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Against {
    fn of(ours: &[Valid<'_>], kernel: &[Valid<'_>], seed: u64) -> Self {
        let ratio = |figure: &dyn Fn(&Measured) -> Option<f64>| {
            let pair = |&(round, ours): &Valid<'_>| {
                let &(_, kernel) = kernel.iter().find(|&&(of, _)| of == round)?;
                figure(ours).zip(figure(kernel))
            };
            Ratio::of(&ours.iter().filter_map(pair).collect::<Vec<_>>(), seed)
        };
        Self {
            p50: ratio(&|measured| quantile(measured, 0.5)),
            p99: ratio(&|measured| quantile(measured, 0.99)),
            throughput: ratio(&throughput),
        }
    }

    /// Each ratio and what it is of, the most telling first.
    pub fn each(&self) -> [(&'static str, Option<Ratio>); 3] {
        [("p99", self.p99), ("p50", self.p50), ("requests per second", self.throughput)]
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = values.first().zip(values.last())?;
        Some(Self { median: median(&mut values), min, max })
    }
}

fn valid(compared: &Compared, contender: Contender) -> Vec<Valid<'_>> {
    let ours = compared.trials.iter().filter(|trial| trial.contender == contender);
    let valid = ours.filter(|trial| trial.invalid.is_none());
    valid.filter_map(|trial| Some((trial.round, trial.measured.as_ref()?))).collect()
}

fn invalid(compared: &Compared, contender: Contender) -> Vec<(usize, &str)> {
    let ours = compared.trials.iter().filter(|trial| trial.contender == contender);
    ours.filter_map(|trial| match (&trial.invalid, &trial.measured) {
        (Some(reason), _) => Some((trial.round, reason.as_str())),
        (None, None) => Some((trial.round, "nothing was measured")),
        (None, Some(_)) => None,
    })
    .collect()
}

fn quantile(measured: &Measured, part: f64) -> Option<f64> {
    measured.latency.quantile(part).map(|micros| micros as f64)
}

fn throughput(measured: &Measured) -> Option<f64> {
    (measured.seconds > 0.0).then(|| measured.latency.count() as f64 / measured.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ErrorKind;
    use balancer_steering::policy::Policy;

    use crate::{ratio::Verdict, read::tests::example, report::Trial};

    const HASH: Contender = Contender::plain(Policy::Hash);
    const ROUND_ROBIN: Contender = Contender::plain(Policy::RoundRobin);

    fn standing<'a>(analysis: &'a Analysis<'_>, scenario: &str, of: Contender) -> &'a Standing<'a> {
        let outcome = analysis.scenarios.iter().find(|o| o.scenario.name == scenario).unwrap();
        outcome.standings.iter().find(|standing| standing.contender == of).unwrap()
    }

    fn p99(standing: &Standing<'_>) -> Verdict {
        standing.against.p99.unwrap().verdict()
    }

    #[test]
    fn an_invalid_trial_is_named_and_enters_no_figure() {
        let report = example();
        let mut without = report.clone();
        for compared in &mut without.scenarios {
            compared.trials.retain(|trial| trial.invalid.is_none());
        }
        let (with, without) = (Analysis::of(&report), Analysis::of(&without));
        let ours = standing(&with, "few", Contender::Shared);
        let clean = standing(&without, "few", Contender::Shared);
        assert_eq!((ours.valid, ours.invalid.len()), (5, 1));
        assert_eq!(ours.invalid[0].0, 2);
        assert_eq!((ours.scheduled, &ours.latency), (200, &clean.latency));
        assert_eq!((ours.quantiles, ours.against), (clean.quantiles, clean.against));
        assert_eq!(ours.connections, clean.connections);
    }

    #[test]
    fn a_round_counts_only_where_both_trials_do() {
        let mut report = example();
        let spoil = |trial: &mut Trial| trial.invalid = Some("spoilt".to_owned());
        let trials = &mut report.scenarios[0].trials;
        trials.iter_mut().filter(|t| t.contender == KERNEL && t.round == 0).for_each(spoil);
        trials.iter_mut().filter(|t| t.contender == HASH && t.round == 1).for_each(spoil);
        let analysis = Analysis::of(&report);
        let hash = standing(&analysis, "few", HASH);
        assert_eq!((hash.valid, hash.against.p99.unwrap().rounds), (5, 4));
        assert_eq!(p99(hash), Verdict::TooFew);
        assert!(hash.verdict.contains("too few rounds to tell: 4 of at least 5"));
    }

    #[test]
    fn what_was_not_measured_does_not_count_either() {
        let mut report = example();
        report.scenarios[0].trials[0].measured = None;
        let analysis = Analysis::of(&report);
        let kernel = standing(&analysis, "few", KERNEL);
        assert_eq!((kernel.valid, &*kernel.invalid), (5, &[(0, "nothing was measured")][..]));
    }

    #[test]
    fn who_was_left_out_of_a_scenario_has_no_part_in_it() {
        let mut report = example();
        report.scenarios[0].without = vec![ROUND_ROBIN];
        let analysis = Analysis::of(&report);
        let in_scenario = |index: usize| {
            let standings = &analysis.scenarios[index].standings;
            standings.iter().any(|standing| standing.contender == ROUND_ROBIN)
        };
        assert_eq!((in_scenario(0), in_scenario(1)), (false, true));
    }

    #[test]
    fn where_nothing_differs_a_sentence_says_so() {
        let report = example();
        let analysis = Analysis::of(&report);
        assert!(analysis.scenarios[0].conclusion.unwrap().contains("as good as any"));
        assert_eq!(analysis.scenarios[1].conclusion, None);
    }

    #[test]
    fn what_the_interval_does_not_tell_apart_is_no_win() {
        let report = example();
        let analysis = Analysis::of(&report);
        let others = &analysis.scenarios[0].standings[1..];
        assert!(others.iter().any(|standing| standing.against.p99.unwrap().value < 1.0));
        for standing in others {
            assert_eq!(p99(standing), Verdict::NoDifference);
            let verdict = &standing.verdict;
            assert!(verdict.contains("no difference in p99"), "{verdict}");
            assert!(!verdict.contains("lower") && !verdict.contains("higher"), "{verdict}");
        }
    }

    #[test]
    fn a_verdict_names_figure_interval_and_direction() {
        let report = example();
        let analysis = Analysis::of(&report);
        let round_robin = standing(&analysis, "slow-worker", ROUND_ROBIN);
        let interval = round_robin.against.p99.unwrap().interval.unwrap();
        assert_eq!(p99(round_robin), Verdict::Lower);
        let expected = format!(
            "round-robin: p99 {} of the kernel's (95 %: {}): lower; ",
            verdict::factor(round_robin.against.p99.unwrap().value),
            verdict::interval(interval)
        );
        assert!(round_robin.verdict.starts_with(&expected), "{}", round_robin.verdict);
        assert!(round_robin.verdict.contains("connections exactly even (kernel: CV "));
        assert!(
            round_robin
                .verdict
                .ends_with("0 of 1200 requests without an answer (kernel: 4 of 1200)")
        );
    }

    #[test]
    fn only_plain_choices_are_tested_for_chance() {
        let report = example();
        let analysis = Analysis::of(&report);
        assert!((standing(&analysis, "few", ROUND_ROBIN).chance.unwrap() - 1.0).abs() < 1e-9);
        assert!(standing(&analysis, "few", Contender::Shared).chance.unwrap() < 1e-6);
        assert_eq!(standing(&analysis, "slow-worker", HASH).chance, None);
    }

    #[test]
    fn errors_are_summed_by_kind() {
        let report = example();
        let analysis = Analysis::of(&report);
        let kernel = standing(&analysis, "slow-worker", KERNEL);
        let expected = BTreeMap::from([(ErrorKind::Reset, 1), (ErrorKind::Timeout, 3)]);
        assert_eq!((&kernel.errors, kernel.unanswered()), (&expected, 4));
    }

    #[test]
    fn without_the_kernel_or_any_trial_nothing_is_compared() {
        let mut report = example();
        report.contenders.remove(0);
        report.scenarios[0].trials.retain(|trial| trial.contender == HASH);
        let analysis = Analysis::of(&report);
        assert!(standing(&analysis, "few", HASH).verdict.contains("not compared"));
        assert_eq!(standing(&analysis, "few", ROUND_ROBIN).verdict, "round-robin: no valid trial");
        assert_eq!(analysis.scenarios[0].conclusion, None);
    }
}
