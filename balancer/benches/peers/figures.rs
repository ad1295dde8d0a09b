//! From trials to the figures of a table. Pure.

use balancer_lab::report::{Distribution, Measured};

use crate::{contender::KERNEL, statistics::Spread, trial::Trial, workers::WORKERS};

/// What the trials of a contender say together.
pub struct Figures {
    /// Requests a second.
    pub rate: Spread,
    /// Median latency in milliseconds.
    pub p50: Spread,
    /// Of a hundred requests, one took longer; in milliseconds.
    pub p99: Spread,
    /// CPU time of proxies in microseconds a request; none without a proxy.
    pub proxy_cpu: Option<Spread>,
    /// The share of the connections that each worker had, the smallest and the largest.
    pub shares: [f64; 2],
    /// What is left of the kernel's, round by round; or why nothing can be said.
    pub of_kernel: Result<OfKernel, String>,
}

/// Compared with the kernel's hash in the same round.
pub struct OfKernel {
    /// Requests a second, as a part of those.
    pub rate: Spread,
    /// The latency that one of a hundred exceeds, as a multiple of that.
    pub p99: Spread,
}

/// Of the trials of a load, those of one contender beside those of the kernel's hash.
pub fn figures(trials: &[Trial], contender: &str) -> Figures {
    let ours = measured(trials, contender);
    let shares = shares(&ours);
    let cpu: Vec<f64> = of(trials, contender)
        .filter_map(|trial| Some(trial.proxy_cpu? as f64 / answered(trial.measured.as_ref()?)))
        .collect();
    Figures {
        rate: spread(&ours, rate),
        p50: spread(&ours, |m| millis(&m.latency, 50)),
        p99: spread(&ours, |m| millis(&m.latency, 99)),
        proxy_cpu: (!cpu.is_empty()).then(|| Spread::of(cpu)),
        shares,
        of_kernel: of_kernel(trials, contender),
    }
}

fn of_kernel(trials: &[Trial], contender: &str) -> Result<OfKernel, String> {
    for name in [contender, KERNEL] {
        if let Some(problem) = of(trials, name).find_map(|trial| trial.problem.as_ref()) {
            return Err(format!("{name}: {problem}"));
        }
    }
    let (ours, kernel) = (measured(trials, contender), measured(trials, KERNEL));
    let pairs = |figure: fn(&Measured) -> f64| {
        let of = |all: &[&Measured]| all.iter().map(|m| figure(m)).collect::<Vec<_>>();
        Spread::of_pairs(&of(&ours), &of(&kernel), |ours, kernel| ours / kernel)
    };
    Ok(OfKernel { rate: pairs(rate), p99: pairs(|m| millis(&m.latency, 99)) })
}

fn of<'a>(trials: &'a [Trial], contender: &str) -> impl Iterator<Item = &'a Trial> {
    trials.iter().filter(move |trial| trial.contender == contender)
}

fn measured<'a>(trials: &'a [Trial], contender: &str) -> Vec<&'a Measured> {
    of(trials, contender).filter_map(|trial| trial.measured.as_ref()).collect()
}

fn spread(trials: &[&Measured], figure: impl Fn(&Measured) -> f64) -> Spread {
    Spread::of(trials.iter().map(|measured| figure(measured)).collect())
}

fn rate(measured: &Measured) -> f64 {
    answered(measured) / measured.seconds
}

fn answered(measured: &Measured) -> f64 {
    measured.latency.0.iter().map(|(_, count)| count).sum::<u64>() as f64
}

/// What so many of a hundred do not exceed, in milliseconds.
fn millis(latency: &Distribution, percent: u64) -> f64 {
    let whole: u64 = latency.0.iter().map(|(_, count)| count).sum();
    let rank = (whole * percent).div_ceil(100);
    let mut seen = 0;
    let micros = latency.0.iter().find(|(_, count)| {
        seen += count;
        seen >= rank
    });
    micros.map_or(f64::NAN, |(micros, _)| *micros as f64 / 1e3)
}

fn shares(trials: &[&Measured]) -> [f64; 2] {
    let mut connections = [0; WORKERS];
    for (sum, share) in trials.iter().flat_map(|m| connections_of(m)) {
        connections[sum] += share;
    }
    let whole = connections.iter().sum::<u64>() as f64;
    let part = |part: Option<&u64>| part.copied().unwrap_or_default() as f64 / whole;
    [part(connections.iter().min()), part(connections.iter().max())]
}

fn connections_of(measured: &Measured) -> impl Iterator<Item = (usize, u64)> {
    measured.workers.iter().map(|share| share.connections).enumerate()
}
