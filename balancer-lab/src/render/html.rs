//! A comparison as one page that needs nothing else: no script, no request.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{P999, chart, tables};
use crate::{
    analysis::{Analysis, Outcome},
    contender::KERNEL,
    ratio::{LEAST_ROUNDS, Verdict},
    report::Report,
    scenario::Connections,
    standing::Standing,
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
                h2 #summary { "p99 over the kernel's" }
                (summary(report, &scenarios))
                @for (index, outcome) in scenarios.iter().enumerate() {
                    (scenario(index, outcome))
                }
                (explanation())
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
                li { a href="#summary" { "Summary" } }
                @for (index, Outcome { scenario, .. }) in scenarios.iter().enumerate() {
                    li { a href={ "#" (anchor(index)) } { (scenario.name) } }
                }
                li { a href="#reading" { "How to read this" } }
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
                "was due, not from when it was sent, so requests that had to wait are not left out."
            }
            li {
                "Figures are medians of the trials, with their range. Trials that do not count are in "
                "no figure, and are listed with the reason. " (P999)
            }
            li {
                "A ratio is a contender's median over that of " code { "kernel" }
                ", with a 95 % interval by bootstrap over the rounds. If the interval contains 1, "
                "there is no difference that could be told from noise; fewer than "
                (LEAST_ROUNDS) " rounds are too few to tell. Of twenty comparisons without any "
                "difference, about one shows one nevertheless. Blue is better than the kernel's, "
                "orange is worse."
            }
            li {
                "Evenness is relative to the shares that a contender is meant to give: equal ones, or "
                "by weight if it goes by weight. CV is the standard deviation over the mean (0 is "
                "even); Jain's index is 1 if all have the same and 1/n if one of n has all. They "
                "are medians of the trials; shares are of all trials together. χ² p is the probability "
                "that chance alone is as uneven."
            }
            li {
                "Grey lines are what queueing theory says of arrivals and service times such as these: of a "
                "hash (k times M/M/1), of workers in rotation (" i { "E" sub { "k" } } "/M/1), and of one queue for "
                "all (M/M/k), than which no choice at arrival can be better."
            }
            li { "The JSON of the same comparison has every trial, raw." }
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
                        @for &contender in others() {
                            @if let Some(standing) = standings.iter().find(|s| s.contender == contender) {
                                (tables::ratio(standing.against.p99, Verdict::Lower))
                            } @else { td { small { "as round-robin" } } }
                        }
                    }
                }
            }
        } }
    }
}

fn scenario(index: usize, outcome: &Outcome<'_>) -> Markup {
    let Outcome { scenario, standings, conclusion, .. } = outcome;
    let keeps = matches!(scenario.connections, Connections::KeepAlive { .. });
    html! {
        h2 id=(anchor(index)) { (scenario.name) }
        p { (scenario.about) "; " (scenario.workers) " workers" @if !scenario.weights.is_empty() {
            " of weights " (weights(&scenario.weights))
        } "." }
        ul {
            @for Standing { verdict, .. } in standings { li { (verdict.replace(" %", "\u{a0}%")) } }
        }
        @if let Some(conclusion) = conclusion { p { strong { (conclusion) } } }
        (invalid(standings))
        h3 { "Latency" }
        figure {
            (chart::latency(outcome))
            figcaption { "The share of the requests that were answered within a time." }
        }
        (tables::latency(standings))
        h3 { "Relative to the kernel's" }
        figure {
            (chart::ratios(outcome))
            figcaption {
                "Lines are 95 % intervals; a pale mark has none. If a line crosses 1, there is no "
                "difference."
            }
        }
        (tables::ratios(standings))
        h3 { "Spread over the workers" }
        figure {
            (chart::spread(outcome, "connections", |standing| &standing.connections))
            figcaption { "Percent of the connections, by worker; the dark line is what was expected." }
        }
        @if keeps { figure {
            (chart::spread(outcome, "requests", |standing| &standing.requests))
            figcaption { "Percent of the requests, by worker; the dark line is what was expected." }
        } }
        (tables::evenness("connections", standings, |standing| &standing.connections, Some(|s| s.chance)))
        (tables::evenness("requests", standings, |standing| &standing.requests, None))
        (tables::evenness("CPU time in µs", standings, |standing| &standing.cpu, None))
        h3 { "Requests without an answer" }
        (tables::errors(standings))
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

fn weights(weights: &[u16]) -> String {
    weights.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn anchor(index: usize) -> String {
    format!("scenario-{}", index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::example;

    /// The page without its charts, which have snapshots of their own, a line an element.
    fn bare(page: &str) -> String {
        let parts = page.split("<svg").map(|part| part.split_once("</svg>").map_or(part, |p| p.1));
        let (head, body) = (parts.collect::<String>(), "<body>");
        let body = head.split_once(body).map(|(_, body)| body.to_owned()).unwrap();
        body.replace("><", ">\n<")
    }

    #[test]
    fn a_comparison_as_a_page() {
        let mut report = example();
        report.scenarios.remove(0);
        insta::assert_snapshot!(bare(&html(&report)));
    }

    #[test]
    fn a_page_asks_for_nothing_and_runs_nothing() {
        let page = html(&example()).replace("http://www.w3.org/2000/svg", "");
        for foreign in
            ["http://", "https://", "<script", "@import", "url(", " src=", " on", "<link"]
        {
            let at = page.find(foreign).map(|at| page[at..].chars().take(60).collect::<String>());
            // Words may begin with `on`; attributes go on with `…="`.
            assert!(
                !at.as_ref().is_some_and(|at| foreign != " on" || at.contains("=\"")),
                "{at:?}"
            );
        }
        assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
    }

    #[test]
    fn what_a_report_says_is_never_markup() {
        let mut report = example();
        let evil = "<b onclick=\"x\">&";
        report.machine.processor = evil.to_owned();
        report.balancer = evil.to_owned();
        report.scenarios[0].scenario.name = evil.into();
        report.scenarios[0].scenario.about = evil.into();
        report.scenarios[0].trials[0].invalid = Some(evil.to_owned());
        let page = html(&report);
        assert!(!page.contains("<b ") && !page.contains("\"x\""));
        // Contents, summary, heading, three charts; about; processor, version, reason.
        assert_eq!(page.matches("&lt;b onclick=&quot;x&quot;&gt;&amp;").count(), 10);
    }

    #[test]
    fn who_was_left_out_leaves_no_figure_in_the_wrong_column() {
        let mut report = example();
        let summary = |page: &str| {
            let (_, rest) = page.split_once("id=\"summary\"").unwrap();
            rest.split_once("</table>").unwrap().0.to_owned()
        };
        let before = summary(&html(&report));
        report.scenarios[0].without = vec![report.contenders[1]];
        let after = summary(&html(&report));
        assert_eq!(before.matches("<td").count(), after.matches("<td").count());
        assert_eq!(after.matches("as round-robin").count(), 1);
    }

    #[test]
    fn links_lead_to_what_there_is() {
        let page = html(&example());
        for link in page.split("href=\"#").skip(1) {
            let target = link.split_once('"').unwrap().0;
            assert_eq!(page.matches(&format!("id=\"{target}\"")).count(), 1, "{target}");
        }
    }

    #[test]
    fn requests_have_a_chart_of_their_own_where_connections_stay() {
        let mut report = example();
        assert_eq!(html(&report).matches("<svg").count(), 6);
        report.scenarios[0].scenario.connections =
            Connections::KeepAlive { count: 200, exponent: 1.0 };
        assert_eq!(html(&report).matches("<svg").count(), 7);
    }
}
