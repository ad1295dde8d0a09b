//! The tables of the page: a row a contender.

use maud::{Markup, html};

use super::{NONE, Part, digits, ms, percents, spread};
use crate::{
    contender::KERNEL,
    evenness::Evenness,
    load::Load,
    ratio::{Ratio, Verdict},
    report::ErrorKind,
    standing::{Against, QUANTILES, Standing},
    verdict,
};

/// A trial's latency and throughput.
pub fn latency(standings: &[Standing<'_>]) -> Markup {
    let quantiles = QUANTILES.map(|(name, _)| format!("{name}, ms"));
    let headings = quantiles.iter().map(String::as_str).chain(["requests per second", "trials"]);
    table(headings, standings, |standing| {
        html! {
            @for quantile in standing.quantiles { (with_range(spread(quantile, ms))) }
            (with_range(spread(standing.throughput, digits)))
            td { (standing.valid) }
        }
    })
}

/// Medians over the kernel's.
pub fn ratios(standings: &[Standing<'_>]) -> Markup {
    let others: Vec<_> = standings.iter().filter(|s| s.contender != KERNEL).collect();
    table(["p99", "p50", "requests per second"], others, |standing| {
        let Against { p50, p99, throughput } = standing.against;
        html! {
            (ratio(p99, Verdict::Lower))
            (ratio(p50, Verdict::Lower))
            (ratio(throughput, Verdict::Higher))
        }
    })
}

/// How evenly something was spread.
pub fn evenness(
    what: &str,
    standings: &[Standing<'_>],
    load: Part,
    chance: Option<fn(&Standing<'_>) -> Option<f64>>,
) -> Markup {
    let chance =
        chance.filter(|chance| standings.iter().any(|standing| chance(standing).is_some()));
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

/// Requests without an answer, by kind.
pub fn errors(standings: &[Standing<'_>]) -> Markup {
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

/// Colour says whether it is good, words say what it is.
pub fn ratio(of: Option<Ratio>, good: Verdict) -> Markup {
    let Some(ratio) = of else { return html! { td { (NONE) } } };
    let class = match ratio.verdict() {
        Verdict::NoDifference | Verdict::TooFew => None,
        verdict if verdict == good => Some("better"),
        _ => Some("worse"),
    };
    html! {
        td class=[class] {
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
        ErrorKind::Strange => "unexpected answer",
        ErrorKind::Other => "other",
    }
}

fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{analysis::Analysis, read::tests::example};

    #[test]
    fn good_and_bad_are_told_by_what_is_compared() {
        let report = example();
        let analysis = Analysis::of(&report);
        let Against { p99, throughput, .. } = analysis.scenarios[1].standings[2].against;
        assert!(ratio(p99, Verdict::Lower).into_string().contains("class=\"better\">0.096 lower"));
        let throughput = ratio(throughput, Verdict::Higher).into_string();
        assert!(throughput.contains("class=\"better\">1.15 higher"), "{throughput}");
        let same = ratio(analysis.scenarios[0].standings[2].against.p99, Verdict::Lower);
        assert!(same.into_string().starts_with("<td>0.96 no difference"));
    }
}
