//! A comparison as one page that needs nothing else: no script, no request.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{NONE, P999, Part, chart, digits, ms, percents, spread};
use crate::compare::{
    analysis::{Analysis, Load, Outcome, QUANTILES, Standing},
    contender::KERNEL,
    evenness::Evenness,
    ratio::{LEAST_ROUNDS, Ratio, Verdict},
    report::{ErrorKind, Report},
    scenario::Connections,
    verdict,
};

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A comparison as a page.
pub fn html(report: &Report) -> String {
    let Analysis { scenarios } = Analysis::of(report);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "balancer: policies compared" }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { "Policies compared" }
                (head(report))
                (contents(&scenarios))
                (explanation())
                h2 #summary { "p99 over the kernel's" }
                (summary(report, &scenarios))
                @for (index, outcome) in scenarios.iter().enumerate() {
                    (scenario(index, outcome))
                }
            }
        }
    };
    page.into_string()
}

fn head(report: &Report) -> Markup {
    let Report { machine, balancer, seed, rounds, interrupted, .. } = report;
    html! {
        p {
            (machine) "; balancer " (balancer) ", seed " (seed) ", " (rounds) " rounds"
            @if *interrupted { ", " strong { "ended early" } }
            "."
        }
    }
}

fn contents(scenarios: &[Outcome<'_>]) -> Markup {
    html! {
        nav aria-label="Contents" {
            ul {
                li { a href="#reading" { "How to read this" } }
                li { a href="#summary" { "Summary" } }
                @for (index, Outcome { scenario, .. }) in scenarios.iter().enumerate() {
                    li { a href={ "#" (anchor(index)) } { (scenario.name) } }
                }
            }
        }
    }
}

fn explanation() -> Markup {
    html! {
        h2 #reading { "How to read this" }
        ul {
            li {
                "In a round the same arrivals hit every contender. Latency runs from when a request "
                "was due, not from when it was sent: who waits is not forgotten."
            }
            li {
                "Figures are medians of the trials, with their range. Trials that do not count enter "
                "no figure; they are named with the reason. " (P999)
            }
            li {
                "A ratio is a contender's median over that of " code { "kernel" }
                ", with a 95 % interval by bootstrap over the rounds. Where the interval contains 1 "
                "there is no difference that could be told from noise; with fewer than "
                (LEAST_ROUNDS) " rounds nothing can be told. Of twenty comparisons without any "
                "difference, about one shows one all the same."
            }
            li {
                "Evenness goes by the shares that a contender is to give: equal ones, or those of the "
                "weights where it goes by weight. CV is the standard deviation over the mean (0 is "
                "even), Jain's index is 1 where it is even and 1/n where one of n has it all. They "
                "are medians of the trials; shares are of all trials together. χ² p is how likely "
                "chance alone is as uneven."
            }
            li { "Every trial, raw, is in the JSON of the same comparison." }
        }
    }
}

fn summary(report: &Report, scenarios: &[Outcome<'_>]) -> Markup {
    let others = || report.contenders.iter().filter(|&&contender| contender != KERNEL);
    html! {
        div.wide { table {
            thead { tr {
                th scope="col" { "Scenario" }
                @for contender in others() { th scope="col" { (contender) } }
            } }
            tbody {
                @for (index, Outcome { scenario, standings, .. }) in scenarios.iter().enumerate() {
                    tr {
                        th scope="row" { a href={ "#" (anchor(index)) } { (scenario.name) } }
                        @for standing in standings.iter().filter(|s| s.contender != KERNEL) {
                            (ratio(standing.against.p99))
                        }
                    }
                }
            }
        } }
    }
}

fn scenario(index: usize, outcome: &Outcome<'_>) -> Markup {
    let Outcome { scenario, standings, conclusion } = outcome;
    let keeps = matches!(scenario.connections, Connections::KeepAlive { .. });
    html! {
        h2 id=(anchor(index)) { (scenario.name) }
        p { (scenario.about) "; " (scenario.workers) " workers" @if !scenario.weights.is_empty() {
            " of weights " (weights(&scenario.weights))
        } "." }
        ul {
            @for Standing { verdict, .. } in standings { li { (verdict) } }
        }
        @if let Some(conclusion) = conclusion { p { strong { (conclusion) } } }
        (invalid(standings))
        h3 { "Latency" }
        figure {
            (chart::latency(outcome))
            figcaption { "What part of the requests was answered within a time." }
        }
        (latency(standings))
        h3 { "Over the kernel's" }
        figure {
            (chart::ratios(outcome))
            figcaption {
                "Lines are 95 % intervals; a hollow mark has none. Where a line crosses 1 there is "
                "no difference."
            }
        }
        (ratios(standings))
        h3 { "Spread over the workers" }
        figure {
            (chart::spread(outcome, "connections", |standing| &standing.connections))
            figcaption { "Percent of the connections, by worker; the dark line is what was expected." }
        }
        @if keeps { figure {
            (chart::spread(outcome, "requests", |standing| &standing.requests))
            figcaption { "Percent of the requests, by worker; the dark line is what was expected." }
        } }
        (evenness("connections", standings, |standing| &standing.connections, Some(|s| s.chance)))
        (evenness("requests", standings, |standing| &standing.requests, None))
        (evenness("CPU time in µs", standings, |standing| &standing.cpu, None))
        h3 { "Requests without an answer" }
        (errors(standings))
    }
}

fn invalid(standings: &[Standing<'_>]) -> Markup {
    html! {
        @if standings.iter().any(|standing| !standing.invalid.is_empty()) {
            p { "These trials do not count:" }
            ul {
                @for standing in standings {
                    @for (round, reason) in &standing.invalid {
                        li { (standing.contender) ", round " (round + 1) ": " (reason) }
                    }
                }
            }
        }
    }
}

fn latency(standings: &[Standing<'_>]) -> Markup {
    let quantiles = QUANTILES.map(|(name, _)| format!("{name}, ms"));
    let headings = quantiles.iter().map(String::as_str).chain(["requests a second", "trials"]);
    table(headings, standings, |standing| {
        html! {
            @for quantile in standing.quantiles { (with_range(spread(quantile, ms))) }
            (with_range(spread(standing.throughput, digits)))
            td { (standing.valid) }
        }
    })
}

fn ratios(standings: &[Standing<'_>]) -> Markup {
    let others: Vec<_> = standings.iter().filter(|s| s.contender != KERNEL).collect();
    table(["p99", "p50", "requests a second"], others, |standing| {
        html! { @for (_, of) in standing.against.each() { (ratio(of)) } }
    })
}

fn evenness(
    what: &str,
    standings: &[Standing<'_>],
    load: Part,
    chance: Option<fn(&Standing<'_>) -> Option<f64>>,
) -> Markup {
    let headings = ["shares, %", "sd", "CV", "max/mean", "Jain"].into_iter();
    let headings = [what].into_iter().chain(headings).chain(chance.map(|_| "χ² p"));
    titled(headings, standings, |standing| {
        let Load { shares, evenness } = load(standing);
        let figure = |of: fn(&Evenness) -> String| evenness.as_ref().map_or(NONE.to_owned(), of);
        html! {
            td { @if evenness.is_some() { (percents(shares)) } @else { (NONE) } }
            td { (figure(|evenness| digits(evenness.deviation))) }
            td { (figure(|evenness| verdict::percent(evenness.variation))) }
            td { (figure(|evenness| format!("{:.2}", evenness.peak))) }
            td { (figure(|evenness| format!("{:.3}", evenness.jain))) }
            @if let Some(chance) = chance {
                td { (chance(standing).map_or(NONE.to_owned(), probability)) }
            }
        }
    })
}

fn errors(standings: &[Standing<'_>]) -> Markup {
    let mut kinds: Vec<ErrorKind> =
        standings.iter().flat_map(|s| s.errors.keys().copied()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        return html! { p { "None." } };
    }
    let headings = kinds.iter().map(|kind| error(*kind)).chain(["all", "of"]);
    table(headings, standings, |standing| {
        html! {
            @for kind in &kinds { td { (standing.errors.get(kind).copied().unwrap_or(0)) } }
            td { (standing.unanswered()) }
            td { (standing.scheduled) }
        }
    })
}

/// A row a contender.
fn table<'a, 'b: 'a>(
    headings: impl IntoIterator<Item = &'a str>,
    standings: impl IntoIterator<Item = &'a Standing<'b>>,
    cells: impl Fn(&Standing<'b>) -> Markup,
) -> Markup {
    titled(["policy"].into_iter().chain(headings), standings, cells)
}

fn titled<'a, 'b: 'a>(
    headings: impl IntoIterator<Item = &'a str>,
    standings: impl IntoIterator<Item = &'a Standing<'b>>,
    cells: impl Fn(&Standing<'b>) -> Markup,
) -> Markup {
    html! {
        div.wide { table {
            thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
            tbody {
                @for standing in standings {
                    tr { th scope="row" { (standing.contender) } (cells(standing)) }
                }
            }
        } }
    }
}

fn with_range((median, range): (String, String)) -> Markup {
    html! { td { (median) br; small { (range) } } }
}

/// Colour and words say the same.
fn ratio(of: Option<Ratio>) -> Markup {
    let Some(ratio) = of else { return html! { td { (NONE) } } };
    let class = match ratio.verdict() {
        Verdict::Lower => "lower",
        Verdict::Higher => "higher",
        Verdict::NoDifference | Verdict::TooFew => "none",
    };
    html! {
        td class=(class) {
            (verdict::factor(ratio.value)) " " (verdict::word(ratio.verdict()))
            @if let Some(interval) = ratio.interval { br; small { (verdict::interval(interval)) } }
        }
    }
}

fn error(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Refused => "refused",
        ErrorKind::Reset => "reset",
        ErrorKind::Closed => "closed",
        ErrorKind::Timeout => "timed out",
        ErrorKind::Strange => "strange answer",
        ErrorKind::Other => "other",
    }
}

fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

fn weights(weights: &[u16]) -> String {
    weights.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn anchor(index: usize) -> String {
    format!("scenario-{}", index + 1)
}
