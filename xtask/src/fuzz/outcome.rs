//! What a run of libFuzzer came to, out of what it prints.

use std::fmt;

/// A run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many inputs were tried.
    runs: u64,
    /// How many a second.
    rate: u64,
    /// How many ways through the program were taken.
    coverage: u64,
    /// How many inputs are needed to take them all.
    corpus: u64,
    /// What went wrong.
    pub failure: Option<String>,
    /// The file with the input that did.
    pub input: Option<String>,
}

/// Lines of a failure that are shown: the panic, or libFuzzer's own verdict.
const TELLING: [&str; 4] = ["panicked at", "ERROR: libFuzzer", "fatal runtime error", "overflowed"];

impl Outcome {
    /// Of what it printed, and whether it ended well.
    pub fn of(said: &str, ended_well: bool) -> Self {
        let number = |name: &str| {
            let line = said.lines().rev().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        let statistic = |name: &str| number(&format!("stat::{name}:")).unwrap_or_default();
        // `#4711	DONE   cov: 123 ft: 456 corp: 78/9Kb …`
        let status = |name: &str| {
            let is_status = |line: &&str| line.starts_with('#');
            let after =
                said.lines().rev().filter(is_status).find_map(|line| {
                    line.split_whitespace().skip_while(|word| *word != name).nth(1)
                })?;
            after.split('/').next()?.parse().ok()
        };
        let mut lines = said.lines().skip_while(|line| !is_telling(line));
        // A panic's message stands under its place.
        let failure = lines.by_ref().take(4).collect::<Vec<_>>().join("\n");
        Self {
            runs: statistic("number_of_executed_units"),
            rate: statistic("average_exec_per_sec"),
            coverage: status("cov:").unwrap_or_default(),
            corpus: status("corp:").unwrap_or_default(),
            failure: (!ended_well).then_some(failure),
            input: said
                .lines()
                .find_map(|line| line.split_once("Test unit written to "))
                .map(|(_, path)| path.trim().to_owned()),
        }
    }
}

fn is_telling(line: &str) -> bool {
    TELLING.iter().any(|telling| line.contains(telling))
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, rate, coverage, corpus, failure, .. } = self;
        write!(f, "{runs:>9} runs {rate:>7}/s  coverage {coverage:>6}  corpus {corpus:>5}")?;
        if failure.is_some() { f.write_str("  FAILED") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_found_nothing_has_its_figures() {
        let said = "INFO: Seed: 1\n#2\tINITED cov: 20 ft: 21 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #4096\tDONE   cov: 123 ft: 456 corp: 78/9Kb lim: 4 exec/s: 64 rss: 41Mb\n\
                    Done 4096 runs in 64 second(s)\n\
                    stat::number_of_executed_units: 4096\nstat::average_exec_per_sec:     64\n";
        let outcome = Outcome::of(said, true);
        let expected =
            Outcome { runs: 4096, rate: 64, coverage: 123, corpus: 78, ..Outcome::default() };
        assert_eq!(outcome, expected);
        assert!(outcome.to_string().ends_with("coverage    123  corpus    78"), "{outcome}");
    }

    #[test]
    fn a_failure_is_told_with_its_input() {
        let said = "#9\tNEW    cov: 7 ft: 8 corp: 2/3b lim: 4 exec/s: 0 rss: 30Mb\n\
                    thread '<unnamed>' panicked at balancer/src/weight.rs:1:2:\nno weight\n\
                    ==1== ERROR: libFuzzer: deadly signal\n\
                    artifact_prefix='a/'; Test unit written to a/crash-1\n";
        let outcome = Outcome::of(said, false);
        assert!(outcome.failure.as_ref().is_some_and(|failure| failure.contains("\nno weight\n")));
        assert_eq!(outcome.input.as_deref(), Some("a/crash-1"));
        assert!(outcome.to_string().ends_with("FAILED"));
    }
}
