//! Histograms as text, by a pattern. Pure.
//!
//! `prometheus-client` writes one series of a family, and the others are copies of it with other labels and
//! numbers: it would put together each of the 20 lines of a series anew, label by label, and with 1,024
//! members that was most of a scrape's time. What a line looks like is still its own.

use std::{
    borrow::Cow,
    fmt::{Error, Result, Write as _},
};

use balancer_steering::bounds::{BoundedCounts, Bounds};
use prometheus_client::{encoding::NoLabelSet, metrics::MetricType, registry::Unit};

use super::{Format, histogram};

/// Where the labels of a series are to be, as the pattern has them.
const LABELS: (&str, &str) = ("LABELS", "");
const ENCODED: &str = "LABELS=\"\"";

/// The numbers of the pattern's series. Each bucket counts one, so that the number at a bound is how many
/// bounds there are up to it; these two are none of those.
const SUM: f64 = 0.5;
const COUNT: u64 = 1_000_000;

/// How a family of histograms is written.
pub(super) struct Pattern {
    head: String,
    lines: Vec<Line>,
}

/// A line of a series: what is before its labels, what is between them and the number, and the number.
struct Line {
    before: String,
    after: String,
    number: Number,
}

enum Number {
    Sum,
    Count,
    /// How many were counted up to a bound.
    UpTo(usize),
}

impl Pattern {
    /// Of a family.
    pub fn of(
        format: Format,
        name: &'static str,
        help: &'static str,
        bounds: &Bounds,
    ) -> std::result::Result<Self, Error> {
        let buckets: Vec<(f64, u64)> = histogram::ends(bounds).map(|end| (end, 1)).collect();
        let mut text = String::new();
        format.encode(&mut text, move |encoder| {
            let kind = MetricType::Histogram;
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
            let mut series = family.encode_family(&[LABELS])?;
            series.encode_histogram::<NoLabelSet>(SUM, COUNT, &buckets, None)
        })?;
        let (head, series): (Vec<&str>, Vec<&str>) =
            text.split_inclusive('\n').partition(|line| line.starts_with('#'));
        let lines = series.into_iter().map(|line| Line::of(line).ok_or(Error));
        Ok(Self { head: head.concat(), lines: lines.collect::<std::result::Result<_, _>>()? })
    }

    /// What is before the first series.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Adds the series of a member, by the name of its group and its slot.
    pub fn write(
        &self,
        text: &mut String,
        (group, slot): (&str, u32),
        counts: &BoundedCounts,
    ) -> Result {
        let labels = format!("group=\"{}\",slot=\"{slot}\"", escaped(group));
        let up_to = |sum: &mut u64, count: &u64| {
            *sum = sum.saturating_add(*count);
            Some(*sum)
        };
        let up_to: Vec<u64> = counts.counts.iter().scan(0, up_to).collect();
        let all = up_to.last().copied().unwrap_or_default();
        let mut digits = Digits::default();
        for line in &self.lines {
            text.push_str(&line.before);
            text.push_str(&labels);
            text.push_str(&line.after);
            match line.number {
                Number::Sum => {
                    let (whole, part) = (counts.sum.as_secs(), counts.sum.subsec_nanos());
                    write!(text, "{whole}.{part:09}")?;
                }
                Number::Count => text.push_str(digits.of(all)?),
                Number::UpTo(bound) => {
                    text.push_str(digits.of(up_to.get(bound).copied().unwrap_or(all))?);
                }
            }
            text.push('\n');
        }
        Ok(())
    }
}

impl Line {
    fn of(line: &str) -> Option<Self> {
        let (before, rest) = line.trim_end().split_once(ENCODED)?;
        let (after, number) = rest.rsplit_once(' ')?;
        let number = match number.parse::<u64>() {
            Ok(COUNT) => Number::Count,
            Ok(up_to) => Number::UpTo(usize::try_from(up_to).ok()?.checked_sub(1)?),
            Err(_) => Number::Sum,
        };
        Some(Self { before: before.to_owned(), after: format!("{after} "), number })
    }
}

/// The value of a label.
fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}

/// The digits of the last number: at most bounds it is the same as at the one before.
#[derive(Default)]
struct Digits {
    of: Option<u64>,
    text: String,
}

impl Digits {
    fn of(&mut self, number: u64) -> std::result::Result<&str, Error> {
        if self.of != Some(number) {
            self.of = Some(number);
            self.text.clear();
            write!(self.text, "{number}")?;
        }
        Ok(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "balancer_test_duration";
    const HELP: &str = "For a test.";

    /// What `prometheus-client` makes of it, without a pattern.
    fn expected(
        format: Format,
        series: &[(String, u32, BoundedCounts)],
        bounds: &Bounds,
    ) -> String {
        let mut text = String::new();
        let (series, ends) = (series.to_vec(), histogram::ends(bounds).collect::<Vec<_>>());
        let encoded = format.encode(&mut text, move |encoder| {
            let kind = MetricType::Histogram;
            let mut family = encoder.encode_descriptor(NAME, HELP, Some(&Unit::Seconds), kind)?;
            for (group, slot, counts) in &series {
                let labels = ([("group", group.as_str())], [("slot", *slot)]);
                let buckets = ends.iter().copied().zip(counts.counts.iter().copied());
                let (sum, buckets) = (counts.sum.as_secs_f64(), buckets.collect::<Vec<_>>());
                let mut of = family.encode_family(&labels)?;
                of.encode_histogram::<NoLabelSet>(sum, counts.count(), &buckets, None)?;
            }
            Ok(())
        });
        encoded.unwrap();
        text
    }

    fn written(format: Format, series: &[(String, u32, BoundedCounts)], bounds: &Bounds) -> String {
        let pattern = Pattern::of(format, NAME, HELP, bounds).unwrap();
        let mut text = pattern.head().to_owned();
        for (group, slot, counts) in series {
            pattern.write(&mut text, (group, *slot), counts).unwrap();
        }
        text
    }

    fn series() -> impl Strategy<Value = Vec<(String, u32, BoundedCounts)>> {
        let count = prop_oneof![Just(0), 0..5u64, 0..1u64 << 58];
        let counts = prop::collection::vec(count, histogram::ends(&histogram::bounds()).count());
        let sum = (0..1u64 << 40).prop_map(Duration::from_nanos);
        let counts = (counts, sum).prop_map(|(counts, sum)| BoundedCounts { counts, sum });
        let name = prop_oneof!["[a-z0-9_-]{1,20}", "[a\\\\\"\n{}=, ]{1,6}"];
        prop::collection::vec((name, 0..1024u32, counts), 0..4)
    }

    proptest! {
        #[test]
        fn the_text_is_what_prometheus_client_writes_but_for_the_digits_of_a_sum(
            series in series(),
        ) {
            let bounds = histogram::bounds();
            for format in [Format::OpenMetrics, Format::Prometheus] {
                let (written, expected) =
                    (written(format, &series, &bounds), expected(format, &series, &bounds));
                prop_assert_eq!(written.lines().count(), expected.lines().count());
                for (line, expected) in written.lines().zip(expected.lines()) {
                    if !line.contains("_sum{") {
                        prop_assert_eq!(line, expected);
                        continue;
                    }
                    let ((name, sum), (expected_name, expected)) =
                        (line.rsplit_once(' ').unwrap(), expected.rsplit_once(' ').unwrap());
                    prop_assert_eq!(name, expected_name);
                    let (sum, expected): (f64, f64) =
                        (sum.parse().unwrap(), expected.parse().unwrap());
                    prop_assert!((sum - expected).abs() <= 1e-15 * expected, "{} {}", sum, expected);
                }
            }
        }
    }
}
