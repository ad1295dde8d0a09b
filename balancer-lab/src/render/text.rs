//! A comparison for a terminal: a table a scenario, and a sentence a contender.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::{P999, digits, in_lines, ms, percents, spread};
use crate::{
    analysis::{Analysis, Outcome},
    contender::KERNEL,
    render::NONE,
    report::Report,
    standing::{QUANTILES, Standing},
    theory::{Model, Theory},
    verdict::percent,
};

const WIDTH: u16 = 100;

const HEADER: [&str; 8] =
    ["POLICY", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "REQ/S", "ERRORS", "CONNECTIONS %"];

/// Shares of so many workers stand in a line.
const SHARES_A_LINE: usize = 4;

const LEFT_OUT: &str =
    "If no weights differ, weighted is the same as round-robin, and is left out.";

const FIGURES: &str = "Figures are medians of the trials that count, with their range below; CV is \
                       a median too, and shares are of all these trials together.";

/// A comparison as text, no line longer than 100 columns.
pub fn text(report: &Report) -> String {
    let mut page = wrap(&head(report), "");
    for outcome in &Analysis::of(report).scenarios {
        page += "\n";
        page += &wrap(&format!("{}: {}", outcome.scenario.name, outcome.scenario.about), "  ");
        page += &table(outcome);
        page += "\n";
        for sentence in sentences(outcome) {
            page += &wrap(&sentence, "  ");
        }
    }
    let left_out = report.scenarios.iter().any(|compared| !compared.without.is_empty());
    page += "\n";
    page += &wrap(&format!("{FIGURES} {P999} {}", if left_out { LEFT_OUT } else { "" }), "");
    // What a file says of a machine is no command to a terminal.
    page.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

fn head(report: &Report) -> String {
    let Report { machine, seed, rounds, balancer, .. } = report;
    let early = if report.interrupted { ", ended early" } else { "" };
    format!("{machine}; balancer {balancer}, seed {seed}, {rounds} rounds{early}")
}

fn table(outcome: &Outcome<'_>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(HEADER)
        .add_rows(outcome.standings.iter().map(row))
        .add_rows(outcome.theory.into_iter().flat_map(in_theory));
    for column in table.column_iter_mut().skip(1) {
        // Ranges need all the room there is.
        column.set_cell_alignment(CellAlignment::Right);
        column.set_padding((1, 0));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn row(standing: &Standing<'_>) -> Vec<String> {
    let cell = |(median, range)| format!("{median}\n{range}");
    let mut row = vec![in_lines(standing.contender)];
    row.extend(standing.quantiles.map(|quantile| cell(spread(quantile, ms))));
    row.push(cell(spread(standing.throughput, digits)));
    let counts = standing.valid > 0;
    row.push(if counts { standing.unanswered().to_string() } else { NONE.to_owned() });
    row.push(match standing.connections.evenness {
        Some(evenness) => {
            let lines: Vec<String> =
                standing.connections.shares.chunks(SHARES_A_LINE).map(percents).collect();
            format!("{}\nCV {}", lines.join("/\n"), percent(evenness.variation))
        }
        None => NONE.to_owned(),
    });
    row
}

/// A row a model.
fn in_theory(theory: Theory) -> impl Iterator<Item = Vec<String>> {
    Model::ALL.into_iter().map(move |model| {
        let micros = |part| theory.quantile(model, part) * 1e6;
        let figures = QUANTILES.map(|(_, part)| ms(micros(part)));
        let mut row = vec![model.name().to_owned()];
        row.extend(figures);
        row.resize(HEADER.len(), NONE.to_owned());
        row
    })
}

fn sentences(outcome: &Outcome<'_>) -> Vec<String> {
    let others = outcome.standings.iter().filter(|standing| standing.contender != KERNEL);
    let verdicts = others.map(|standing| standing.verdict.clone());
    verdicts.chain(outcome.conclusion.map(str::to_owned)).chain(invalid(outcome)).collect()
}

/// A sentence a reason: whom it befell, and when.
fn invalid(outcome: &Outcome<'_>) -> Vec<String> {
    let mut reasons: BTreeMap<&str, BTreeMap<String, BTreeSet<usize>>> = BTreeMap::new();
    for standing in &outcome.standings {
        for (round, reason) in &standing.invalid {
            let rounds = reasons.entry(reason).or_default().entry(standing.contender.to_string());
            rounds.or_default().insert(round + 1);
        }
    }
    let sentence = |(reason, whom): (&str, BTreeMap<String, BTreeSet<usize>>)| {
        let whom = whom.into_iter().map(|(name, rounds)| {
            let rounds: Vec<String> = rounds.iter().map(ToString::to_string).collect();
            format!("{name} in round {}", rounds.join(", "))
        });
        format!("not counted: {}: {reason}", whom.collect::<Vec<_>>().join("; "))
    };
    reasons.into_iter().map(sentence).collect()
}

/// Breaks a sentence into lines, all but the first indented.
fn wrap(sentence: &str, indent: &str) -> String {
    let mut page = String::new();
    let mut column = 0;
    for word in sentence.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > usize::from(WIDTH) {
            let _ = write!(page, "\n{indent}");
            column = indent.len();
        } else if column > 0 {
            page.push(' ');
            column += 1;
        }
        page += word;
        column += length;
    }
    page + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contender::STANDARD, read::tests::example, report::Trial};

    #[track_caller]
    fn assert_fits(page: &str) {
        for line in page.lines() {
            assert!(line.chars().count() <= usize::from(WIDTH), "{line:?}\n{page}");
        }
    }

    #[test]
    fn a_comparison_as_text() {
        insta::assert_snapshot!(text(&example()));
    }

    #[test]
    fn twelve_contenders_and_endless_times_fit_into_a_terminal() {
        let mut report = example();
        report.contenders = STANDARD.into_iter().cycle().take(12).collect();
        for compared in &mut report.scenarios {
            // Everybody as kernel, times with too many digits for the columns.
            let mut trials = compared.trials.clone();
            trials.retain(|trial| trial.contender == report.contenders[0]);
            for (value, _) in
                trials.iter_mut().flat_map(|t| &mut t.measured.as_mut().unwrap().latency.0)
            {
                *value *= 10_000_000;
            }
            let under = |&contender| {
                trials.clone().into_iter().map(move |mut trial| {
                    trial.contender = contender;
                    trial
                })
            };
            compared.trials = STANDARD.iter().flat_map(under).collect();
        }
        let page = text(&report);
        assert_eq!(page.lines().filter(|line| line.starts_with(" shared ")).count(), 4, "{page}");
        assert_fits(&page);
    }

    #[test]
    fn sixteen_workers_fit_into_a_terminal() {
        let mut report = example();
        report.scenarios[0].scenario.workers = 16;
        let page = text(&report);
        assert_fits(&page);
        assert!(page.contains("/0/0/0/\n"), "{page}");
    }

    #[test]
    fn every_trial_that_does_not_count_is_named_with_its_reason() {
        let mut report = example();
        let trials = &mut report.scenarios[1].trials;
        let of = |trial: &&mut Trial| (trial.contender, trial.round) == (KERNEL, 4);
        trials.iter_mut().find(of).unwrap().invalid =
            Some("worker 2 ended by signal 11".to_owned());
        let page = text(&report).split_whitespace().collect::<Vec<_>>().join(" ");
        for line in [
            "not counted: shared in round 3: the generator sent 4 of 40 requests more than 1 ms late",
            "not counted: kernel in round 5; shared in round 6: worker 2 ended by signal 11",
        ] {
            assert!(page.contains(line), "no {line:?} in\n{page}");
        }
    }

    #[test]
    fn what_was_never_measured_is_a_dash() {
        let mut report = example();
        report.scenarios.truncate(1);
        report.scenarios[0].trials.clear();
        let page = text(&report);
        assert_eq!(page.matches(" - ").count() + page.matches(" -\n").count(), 4 * 7, "{page}");
        assert!(page.contains("hash: no valid trial"), "{page}");
    }

    #[test]
    fn a_comparison_that_was_ended_early_says_so() {
        let mut report = example();
        assert!(!text(&report).contains("ended early"));
        report.interrupted = true;
        assert!(text(&report).contains("6 rounds, ended early"));
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_shown_to_it() {
        let mut report = example();
        report.machine.processor = "x\u{1b}]0;y\u{7}z\u{9b}".to_owned();
        assert!(text(&report).starts_with("x\u{fffd}]0;y\u{fffd}z\u{fffd}, "));
    }

    #[test]
    fn words_are_never_lost_in_wrapping() {
        let long = "word ".repeat(50);
        let lines = wrap(&long, "  ");
        assert_eq!(lines.split_whitespace().count(), 50);
        assert!(lines.lines().skip(1).all(|line| line.starts_with("  ")));
        assert_fits(&lines);
    }
}
