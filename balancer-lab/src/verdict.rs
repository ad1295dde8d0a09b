//! What a comparison says, in words. What an interval does not tell from the kernel's is called no
//! difference, whatever the figures.

use super::{
    contender::KERNEL,
    load::{Load, goes_by_weight},
    ratio::{Interval, LEAST_ROUNDS, Ratio, Verdict},
    scenario::{Connections, Scenario},
    standing::Standing,
};

/// The sentence on one contender.
pub fn sentence(standing: &Standing<'_>, kernel: Option<&Standing<'_>>, of: &Scenario) -> String {
    let name = standing.contender;
    if standing.valid == 0 {
        return format!("{name}: no valid trial");
    }
    let other = kernel.filter(|_| standing.contender != KERNEL);
    let mut parts = if standing.contender == KERNEL {
        vec!["the reference for the others".to_owned()]
    } else {
        differences(standing)
    };
    let by_weight = goes_by_weight(of, standing.contender);
    let kernel = other.map(|kernel| &kernel.connections);
    // Those that stay are open at every moment from first to last.
    let what = match of.connections {
        Connections::KeepAlive { .. } => "open connections",
        Connections::PerRequest => "connections",
    };
    let spread = spread(&standing.connections, by_weight, kernel);
    parts.extend(spread.map(|spread| format!("{what} {spread}")));
    parts.extend(unanswered(standing, other));
    format!("{name}: {}", parts.join("; "))
}

/// Where nothing differs from the kernel's hash, that.
pub fn conclusion(standings: &[Standing<'_>]) -> Option<&'static str> {
    let mut others = standings.iter().filter(|standing| standing.contender != KERNEL).peekable();
    others.peek()?;
    let same = |ratio: Option<Ratio>| ratio.is_some_and(|r| r.verdict() == Verdict::NoDifference);
    let all_same =
        others.all(|other| other.against.each().into_iter().all(|(_, ratio)| same(ratio)));
    all_same.then_some(
        "Here the kernel's hash is as good as any policy: none differs from it in p50, p99 or \
         requests per second.",
    )
}

/// `lower`, or what else there is to say of a ratio.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Lower => "lower",
        Verdict::Higher => "higher",
        Verdict::NoDifference => "no difference",
        Verdict::TooFew => "too few rounds",
    }
}

/// A ratio as text: more digits where fewer would show 0 or 1.
pub fn factor(ratio: f64) -> String {
    match ratio {
        _ if ratio.is_infinite() => "∞".to_owned(),
        _ if ratio != 1.0 && (ratio - 1.0).abs() < 0.005 => format!("{ratio:.4}"),
        _ if ratio >= 100.0 => format!("{ratio:.0}"),
        _ if ratio < 0.1 => format!("{ratio:.3}"),
        _ => format!("{ratio:.2}"),
    }
}

/// `0.35 to 0.52`
pub fn interval(interval: Interval) -> String {
    format!("{} to {}", factor(interval.low), factor(interval.high))
}

/// A part as percent.
pub fn percent(part: f64) -> String {
    if part < 0.0995 { format!("{:.1} %", part * 100.0) } else { format!("{:.0} %", part * 100.0) }
}

fn differences(standing: &Standing<'_>) -> Vec<String> {
    let (p99, others) = match standing.against.each() {
        [(_, None), ..] => {
            return vec![
                "not compared: there is no round that counts both here and under kernel".to_owned(),
            ];
        }
        [(_, Some(p99)), others @ ..] => (p99, others),
    };
    let first = match p99.interval {
        None => {
            let rounds = p99.rounds;
            return vec![format!("too few rounds to tell: {rounds} of at least {LEAST_ROUNDS}")];
        }
        Some(around) if p99.verdict() == Verdict::NoDifference => {
            format!("no difference in p99 (95 %: {})", interval(around))
        }
        Some(around) => difference("p99", p99, around),
    };
    let differing = others.into_iter().filter_map(|(what, ratio)| {
        let ratio = ratio.filter(|ratio| ratio.verdict() != Verdict::NoDifference)?;
        Some(difference(what, ratio, ratio.interval?))
    });
    [first].into_iter().chain(differing).collect()
}

fn difference(what: &str, ratio: Ratio, around: Interval) -> String {
    let (value, around) = (factor(ratio.value), interval(around));
    format!("{what} {value} of the kernel's (95 %: {around}): {}", word(ratio.verdict()))
}

/// The mean is the same for all, so the ratio is that of the standard deviations, too.
fn spread(ours: &Load, by_weight: bool, kernel: Option<&Load>) -> Option<String> {
    let ours = ours.evenness?.variation;
    let kernel = kernel.and_then(|load| load.evenness).map(|evenness| evenness.variation);
    let around = if by_weight { " around the weights" } else { "" };
    // What is left of divisions.
    if ours < 1e-9 {
        let exactly = if by_weight { "exactly by weight" } else { "exactly even" };
        let kernel = kernel.map(|kernel| format!(" (kernel: CV {})", percent(kernel)));
        return Some(exactly.to_owned() + &kernel.unwrap_or_default());
    }
    let kernel = kernel
        .map(|kernel| format!(" ({} of the kernel's {})", factor(ours / kernel), percent(kernel)));
    Some(format!("CV {}{around}{}", percent(ours), kernel.unwrap_or_default()))
}

fn unanswered(ours: &Standing<'_>, kernel: Option<&Standing<'_>>) -> Option<String> {
    let count =
        |standing: &Standing<'_>| format!("{} of {}", standing.unanswered(), standing.scheduled);
    let any = ours.unanswered() + kernel.map_or(0, Standing::unanswered) > 0;
    let kernel = kernel.map(|kernel| format!(" (kernel: {})", count(kernel))).unwrap_or_default();
    any.then(|| format!("{} requests without an answer{kernel}", count(ours)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evenness::equal;

    #[test]
    fn a_factor_has_digits_enough_to_differ_from_nothing_and_from_one() {
        let texts = [0.0, 0.004, 0.41, 0.998, 1.0, 1.004, 12.3, 123.4, f64::INFINITY].map(factor);
        let expected = ["0.000", "0.004", "0.41", "0.9980", "1.00", "1.0040", "12.30", "123", "∞"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_spread_is_put_in_relation_to_the_kernels() {
        let load = |counts: [u64; 2]| Load::of(&[counts.to_vec()], &equal(2));
        let said = |ours, kernel| spread(&load(ours), false, Some(&load(kernel))).unwrap();
        assert_eq!(said([103, 97], [110, 90]), "CV 3.0 % (0.30 of the kernel's 10 %)");
        assert_eq!(said([100, 100], [110, 90]), "exactly even (kernel: CV 10 %)");
        assert_eq!(said([101, 99], [100, 100]), "CV 1.0 % (∞ of the kernel's 0.0 %)");
        assert_eq!(spread(&load([3, 1]), true, None).unwrap(), "CV 50 % around the weights");
    }

    #[test]
    fn a_small_percentage_has_a_digit_more() {
        assert_eq!(
            [0.0, 0.024, 0.0996, 0.24, 1.0].map(percent),
            ["0.0 %", "2.4 %", "10 %", "24 %", "100 %"]
        );
    }
}
