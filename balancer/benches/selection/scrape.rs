//! How long a scrape of all metrics takes, of a group as large as one can be, with requests tracked and
//! without.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use balancer::metrics::{Format, Metrics};
use balancer_steering::{
    affinity, policy::Policy, policy_spec::PolicySpec, steering::DEFAULT_BPFFS, steering::Store,
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{
    bed::{Bed, To},
    curve,
    load::Work,
    progress,
    statistics::Spread,
};

/// As many as a group can have.
const MEMBERS: usize = 1024;

/// A scrape of all of them.
#[derive(Serialize)]
pub struct Scrape {
    /// How many members.
    pub members: usize,
    /// Whether requests are tracked.
    pub observed: bool,
    /// Lines of the answer.
    pub lines: usize,
    /// Milliseconds.
    pub time: Spread,
    /// Milliseconds of a CPU: what is left of it on a machine that does other things too.
    pub cpu: Spread,
}

/// Measures, after a load that has given every member something to count.
///
/// # Errors
/// Returns an error if a load fails, or metrics cannot be read.
pub fn measure(rounds: usize, connections: u64) -> Result<Vec<Scrape>> {
    curve::allow_descriptors()?;
    let mut bed = Bed::make(MEMBERS)?;
    let cpus = affinity::cpus()?;
    bed.set_policy(PolicySpec::plain(Policy::RoundRobin))?;
    let store = Store::at(Path::new(DEFAULT_BPFFS));
    let mut scrapes = Vec::new();
    for observed in [false, true] {
        let metrics = Metrics::new(&store, None, None, observed)?;
        let load = connections.max(4 * MEMBERS as u64);
        bed.time(To::Members, Work::Request, &cpus[..1], load)?;
        let (mut times, mut cpu) = (Vec::new(), Vec::new());
        let mut lines = 0;
        for round in 0..rounds {
            progress::show(format_args!("scrape: {round} of {rounds} rounds"));
            let (began, used) = (Instant::now(), cpu_time());
            let text = metrics.scrape(Format::OpenMetrics)?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            cpu.push((cpu_time() - used).as_secs_f64() * 1e3);
            lines = text.lines().count();
            check(&text, observed)?;
        }
        let (time, cpu) = (Spread::of(times), Spread::of(cpu));
        scrapes.push(Scrape { members: MEMBERS, observed, lines, time, cpu });
    }
    progress::clear();
    Ok(scrapes)
}

/// The CPU time that this thread has used.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// That what was measured is the whole of it.
fn check(text: &str, observed: bool) -> Result<()> {
    let count = |metric: &str| text.lines().filter(|line| line.starts_with(metric)).count();
    ensure!(count("balancer_choices_total{") == MEMBERS, "some members are missing");
    let histogram = "balancer_request_duration_seconds_count{";
    let histograms =
        text.lines().filter(|line| line.starts_with(histogram) && !line.ends_with(" 0"));
    let (histograms, expected) = (histograms.count(), if observed { MEMBERS } else { 0 });
    ensure!(histograms == expected, "{histograms} members rather than {expected} have times");
    let errors = text.lines().find(|line| line.starts_with("balancer_collection_errors_total "));
    ensure!(
        errors.context("errors are not counted")?.ends_with(" 0"),
        "some metrics could not be read"
    );
    Ok(())
}
