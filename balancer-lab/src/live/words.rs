//! An experiment in words and a table. Pure.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::{
    contrast::{Contrast, LEAST_ROUNDS, Verdict},
    result::{COMPARED, Outcome, Standing},
    slow::Slow,
};
use crate::verdict::{factor, percent};

/// The whole report, without a line end.
pub fn report(outcome: &Outcome) -> String {
    let mut lines = vec![table(outcome), String::new()];
    let (baseline, others) = match outcome.policies.split_first() {
        Some((baseline, others)) => (baseline.policy.as_str(), others),
        None => return String::new(),
    };
    lines.extend(outcome.policies.first().and_then(nothing_told));
    lines.extend(others.iter().map(|standing| sentence(standing, baseline)));
    lines.extend(conclusion(others, baseline));
    lines.extend(outcome.slow.iter().map(slow_sentence));
    if outcome.slow.is_empty() {
        lines.push("workers: none is slower than the others beyond doubt".to_owned());
    }
    lines.extend(generator_lines(outcome));
    lines.push(String::new());
    lines.push(method(outcome));
    lines.extend(carried_over(outcome));
    lines.extend(outcome.ended.as_ref().map(|why| format!("ended early: {why}")));
    lines.join("\n")
}

fn table(outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header([
        "policy",
        "answers",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "read p99",
        "CV conns",
        "CV requests",
        "CV in flight",
        "overflows",
    ]);
    for standing in &outcome.policies {
        let cv = |value: Option<f64>| value.map_or_else(dash, percent);
        let quantiles = &standing.to_answer;
        table.add_row([
            standing.policy.clone(),
            standing.answers.to_string(),
            time(quantiles.p50),
            time(quantiles.p90),
            time(quantiles.p99),
            time(quantiles.p999),
            time(standing.to_read.p99),
            cv(standing.connections_cv),
            cv(standing.answers_cv),
            cv(standing.in_flight_cv),
            standing.overflows.map_or_else(dash, |count| count.to_string()),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn dash() -> String {
    "-".to_owned()
}

/// A time in seconds with the unit that suits it, three digits.
pub fn time(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return dash() };
    let (value, unit) = match seconds {
        _ if seconds >= 1.0 => (seconds, "s"),
        _ if seconds >= 1e-3 => (seconds * 1e3, "ms"),
        _ => (seconds * 1e6, "µs"),
    };
    match value {
        _ if value >= 100.0 => format!("{value:.0} {unit}"),
        _ if value >= 10.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.2} {unit}"),
    }
}

/// Of a policy whose blocks had answers, but none on a connection that it chose.
fn nothing_told(standing: &Standing) -> Option<String> {
    let (policy, carried) = (&standing.policy, standing.carried_answers);
    (standing.answers == 0 && carried > 0).then(|| {
        format!(
            "{policy}: nothing can be told, because all {carried} answers in its blocks were on connections that \
             were open before; it takes longer blocks or clients that connect anew"
        )
    })
}

fn sentence(standing: &Standing, baseline: &str) -> String {
    if let Some(nothing) = nothing_told(standing) {
        return nothing;
    }
    let parts = COMPARED.iter().zip(&standing.against).rev().map(|((what, _), contrast)| {
        contrast.as_ref().map_or_else(
            || format!("{what} not compared: no two rounds have it both here and under {baseline}"),
            |contrast| part(what, contrast, baseline),
        )
    });
    format!("{}: {}", standing.policy, parts.collect::<Vec<_>>().join("; "))
}

fn part(what: &str, contrast: &Contrast, baseline: &str) -> String {
    let around = format!("95 %: {} to {}", factor(contrast.low), factor(contrast.high));
    let ratio = factor(contrast.ratio);
    match contrast.verdict {
        Verdict::Lower => format!("{what} {ratio} of {baseline}'s ({around}): lower"),
        Verdict::Higher => format!("{what} {ratio} of {baseline}'s ({around}): higher"),
        Verdict::NoDifference => format!("no difference in {what} ({around})"),
        Verdict::TooFew => {
            let rounds = contrast.rounds;
            format!("too few rounds to tell of {what}: {rounds} of at least {LEAST_ROUNDS}")
        }
    }
}

fn conclusion(others: &[Standing], baseline: &str) -> Option<String> {
    let mut contrasts = others.iter().flat_map(|standing| &standing.against).peekable();
    contrasts.peek()?;
    let same = |contrast: &Option<Contrast>| {
        contrast.as_ref().is_some_and(|contrast| contrast.verdict == Verdict::NoDifference)
    };
    contrasts.all(same).then(|| {
        format!("no difference: none of them differs from {baseline} in p50 or p99 on this traffic")
    })
}

fn slow_sentence(slow: &Slow) -> String {
    format!(
        "PID {} is slow: its median time to answer is {} times that of the other workers (95 %: {} to {}, {} \
         blocks)",
        slow.pid,
        factor(slow.factor),
        factor(slow.low),
        factor(slow.high),
        slow.blocks
    )
}

fn generator_lines(outcome: &Outcome) -> impl Iterator<Item = String> + '_ {
    outcome.policies.iter().filter_map(|standing| {
        let told = standing.generator?;
        let (policy, seen) = (&standing.policy, &standing.to_answer);
        Some(format!(
            "{policy}: the load generator says p50 {}, p99 {}; the kernel p50 {}, p99 {}",
            time(told.p50),
            time(told.p99),
            time(seen.p50),
            time(seen.p99)
        ))
    })
}

fn method(outcome: &Outcome) -> String {
    let needed = outcome.rounds_needed.map(|rounds| {
        let seconds = rounds as f64 * outcome.block_seconds * outcome.policies.len() as f64;
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        format!("; to tell a difference of 5 % in p99: {rounds} rounds, {}", span(time))
    });
    format!(
        "{} rounds, a block of {:.1} s for each policy, of which the first {:.1} s are discarded; intervals by \
         rounds, verdicts corrected for the number of comparisons{}",
        outcome.rounds,
        outcome.block_seconds,
        outcome.burn_in_seconds,
        needed.unwrap_or_default()
    )
}

/// A time of a human's measure.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        7200..172_800 => format!("{} h", seconds.div_ceil(3600)),
        _ => format!("{} days", seconds.div_ceil(86_400)),
    }
}

/// One line per policy that has been in force while earlier connections were answered.
fn carried_over(outcome: &Outcome) -> impl Iterator<Item = String> + '_ {
    outcome.policies.iter().filter(|standing| standing.carried_answers > 0).map(|standing| {
        let (carried, times) = (standing.carried_answers, &standing.carried_to_answer);
        let all = carried.saturating_add(standing.answers);
        format!(
            "carry-over: {}: {carried} more answers ({} of all in its blocks) were on connections that an earlier \
             policy had chosen, p50 {}, p99 {}; they are in none of its figures",
            standing.policy,
            percent(carried as f64 / all as f64),
            time(times.p50),
            time(times.p99)
        )
    })
}
