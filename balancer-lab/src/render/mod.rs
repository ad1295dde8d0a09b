//! A comparison as text and as a page.

mod chart;
mod html;
mod tables;
mod text;

pub use self::{html::html, text::text};

use crate::{
    contender::Contender,
    load::Load,
    standing::{Spread, Standing},
};

/// What no figure is known of.
const NONE: &str = "-";

const P999: &str = "p99.9 of fewer than 1000 requests is the slowest one.";

/// One of the loads of a contender.
type Part = for<'s, 'r> fn(&'s Standing<'r>) -> &'s Load;

/// A contender's name, an option a line: where it stands beside figures.
fn in_lines(contender: Contender) -> String {
    contender.to_string().replace('+', "\n+")
}

/// Microseconds as milliseconds, with three digits.
fn ms(micros: f64) -> String {
    digits(micros / 1000.0)
}

/// With three digits, or all before the point.
fn digits(figure: f64) -> String {
    match figure {
        _ if figure < 0.9995 => format!("{figure:.3}"),
        _ if figure < 9.995 => format!("{figure:.2}"),
        _ if figure < 99.95 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

/// The median, and from where to where.
fn spread(spread: Option<Spread>, format: fn(f64) -> String) -> (String, String) {
    spread.map_or_else(
        || (NONE.to_owned(), String::new()),
        |Spread { median, min, max }| (format(median), format!("{}–{}", format(min), format(max))),
    )
}

/// Shares as percent: `25/25/25/25`.
fn percents(shares: &[f64]) -> String {
    let percents: Vec<String> =
        shares.iter().map(|share| format!("{:.0}", share * 100.0)).collect();
    percents.join("/")
}
