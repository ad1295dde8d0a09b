//! The progress of `run` where output is no terminal: one plain line a second.

use std::{fmt::Write as _, time::Duration};

use balancer_steering::snapshot::Snapshot;

use crate::rates::Rates;

/// Everything that a person or a script wants of one second, on one line.
pub fn progress(snapshot: &Snapshot, rates: &Rates, elapsed: Duration) -> String {
    let total = snapshot.connections(snapshot.total());
    let mut line = format!(
        "{}s {} {}={total} rate={:.0}/s fallback={} errors={}",
        elapsed.as_secs(),
        snapshot.policy.name(),
        snapshot.unit(),
        rates.total,
        snapshot.fallback,
        snapshot.errors
    );
    for member in &snapshot.members {
        // A String takes everything.
        let _ = write!(line, " {}={}", member.pid, snapshot.connections(member.tally));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::testing::snapshot as example;

    #[test]
    fn a_progress_line_has_totals_first_then_each_worker() {
        let rates = Rates { total: 120.4, members: vec![60.0, 36.0, 24.0] };
        assert_eq!(
            progress(&example(), &rates, Duration::from_millis(12_300)),
            "12s weighted connections=1000 rate=120/s fallback=0 errors=0 4711=500 4712=300 4720=150"
        );
    }
}
