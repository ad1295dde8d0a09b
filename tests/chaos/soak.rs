//! What balancer itself takes, again and again: memory and descriptors, which are not to grow.

use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Table, presets};
use procfs::process::Process;

/// What a process has at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub after: Duration,
    /// Resident memory, in KiB.
    pub memory: u64,
    pub descriptors: u64,
    pub threads: u64,
}

impl Sample {
    /// Of a process, now; none where it is gone.
    pub fn of(pid: u32, begun: Instant) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let status = process.status().ok()?;
        Some(Self {
            after: begun.elapsed(),
            memory: status.vmrss?,
            descriptors: process.fd_count().ok()? as u64,
            threads: status.threads,
        })
    }
}

/// How much memory may come and go, in KiB: what an allocator keeps.
const SLACK: u64 = 2048;

/// Whether neither grew after the first fifth, in which caches fill: the least of the last third of
/// what follows against the most of its first.
pub fn is_flat(samples: &[Sample]) -> bool {
    let settled = &samples[samples.len() / 5..];
    let third = settled.len() / 3;
    let (first, last) = (&settled[..third], &settled[settled.len() - third..]);
    let grew = |of: &dyn Fn(&Sample) -> u64, slack: u64| {
        let most = first.iter().map(of).max().unwrap_or(u64::MAX - slack);
        last.iter().map(of).min().is_none_or(|least| least > most + slack)
    };
    !grew(&|sample| sample.memory, SLACK) && !grew(&|sample| sample.descriptors, 0)
}

/// As a table, at most 20 rows.
pub fn text(samples: &[Sample]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["after", "memory", "descriptors", "threads"]);
    for sample in samples.iter().step_by(samples.len().div_ceil(20).max(1)) {
        let after = format!("{:.0} s", sample.after.as_secs_f64());
        let memory = format!("{} KiB", sample.memory);
        let cells = [after, memory, sample.descriptors.to_string(), sample.threads.to_string()];
        table.add_row(cells.map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right)));
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: impl Fn(u64) -> (u64, u64)) -> Vec<Sample> {
        let sample = |n| {
            let (memory, descriptors) = of(n);
            Sample { after: Duration::from_secs(n), memory, descriptors, threads: 1 }
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn what_comes_and_goes_is_flat_and_what_grows_is_not() {
        assert!(is_flat(&samples(|n| (20_000 + n % 7 * 100, 30 + n % 3))));
        assert!(!is_flat(&samples(|n| (20_000 + n * 100, 30))));
        assert!(!is_flat(&samples(|n| (20_000, 30 + n / 10))));
    }

    #[test]
    fn what_fills_in_the_beginning_is_no_growth() {
        assert!(is_flat(&samples(|n| (n.min(20) * 1000, 30))));
    }

    #[test]
    fn of_nothing_it_is_not_known_to_be_flat() {
        assert!(!is_flat(&[]));
    }
}
