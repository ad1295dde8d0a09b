//! Whether the program in force is ours. Any member may replace or detach it at any time by
//! `setsockopt`, and the kernel tells nobody. What shows it is connections: if some are established that
//! the program was not asked about, while it is asked about none, it is not there.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::Result;
use balancer_steering::{error::ErrorKind, snapshot::Snapshot, steering::Steering};

/// So often within [`WHILE`] it is put back.
const TIMES: usize = 3;
const WHILE: Duration = Duration::from_secs(60);

/// What was seen last, and what was done.
#[derive(Debug, Default)]
pub(super) struct InForce {
    last: Option<(u64, u64)>,
    put_back: VecDeque<Instant>,
    given_up: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    PutBack,
    GiveUp,
}

impl InForce {
    /// Looks, and puts the program back if it is not there; a line for the user.
    ///
    /// # Errors
    /// Returns an error if the group's state cannot be changed, or the kernel refuses the program.
    pub fn look(&mut self, snapshot: &Snapshot, steering: &mut Steering) -> Result<Option<String>> {
        let name = snapshot.group.name.as_str();
        let last = self.last;
        match self.judge(Instant::now(), snapshot) {
            Verdict::Nothing => Ok(None),
            Verdict::PutBack => {
                let lock = match steering.try_lock() {
                    Err(error) if error.kind() == ErrorKind::Busy => {
                        // As if nobody had looked: the next look finds the same.
                        self.last = last;
                        self.put_back.pop_back();
                        return Ok(None);
                    }
                    lock => lock?,
                };
                if lock.is_none() {
                    return Ok(None);
                }
                steering.put_back()?;
                Ok(Some(format!(
                    "{name}: connections came without the program having been asked: another process has \
                     replaced or detached it; it is attached again"
                )))
            }
            Verdict::GiveUp => Ok(Some(format!(
                "{name}: the program was replaced or detached {TIMES} times within {} s and now again; it \
                 is not attached any more: find out which member calls setsockopt with \
                 SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF or SO_DETACH_REUSEPORT_BPF (`strace \
                 -f -e setsockopt -p PID`), turn that off, then say `balancer policy {}`",
                WHILE.as_secs(),
                snapshot.policy.name()
            ))),
        }
    }

    fn judge(&mut self, now: Instant, snapshot: &Snapshot) -> Verdict {
        if !snapshot.policy.steers() || !snapshot.counted {
            self.last = None;
            return Verdict::Nothing;
        }
        let total = snapshot.total();
        let asked = total.selected + total.migrated + snapshot.fallback + snapshot.errors;
        let last = self.last.replace((asked, snapshot.unasked));
        let is_gone = last.is_some_and(|(a, unasked)| asked == a && snapshot.unasked > unasked);
        if last.is_some_and(|(a, _)| asked > a) {
            // It is asked again.
            self.given_up = false;
        }
        if !is_gone || self.given_up {
            return Verdict::Nothing;
        }
        self.put_back.retain(|time| now.duration_since(*time) < WHILE);
        if self.put_back.len() >= TIMES {
            self.given_up = true;
            return Verdict::GiveUp;
        }
        self.put_back.push_back(now);
        Verdict::PutBack
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::{policy::Policy, testing::snapshot as example};

    fn seen(asked: u64, unasked: u64) -> Snapshot {
        Snapshot { fallback: asked, unasked, ..example() }
    }

    #[test]
    fn a_program_that_is_not_asked_while_connections_come_is_put_back() {
        let mut in_force = InForce::default();
        let now = Instant::now();
        let verdicts = [(5, 0), (9, 0), (9, 0), (9, 4), (9, 4), (12, 5), (12, 6)]
            .map(|(asked, unasked)| in_force.judge(now, &seen(asked, unasked)));
        use Verdict::{Nothing, PutBack};
        assert_eq!(verdicts, [Nothing, Nothing, Nothing, PutBack, Nothing, Nothing, PutBack]);
    }

    #[test]
    fn one_that_is_taken_off_again_and_again_is_given_up_until_it_is_asked() {
        let mut in_force = InForce::default();
        let now = Instant::now();
        in_force.judge(now, &seen(0, 0));
        let verdicts = [1, 2, 3, 4, 5].map(|unasked| in_force.judge(now, &seen(0, unasked)));
        use Verdict::{GiveUp, Nothing, PutBack};
        assert_eq!(verdicts, [PutBack, PutBack, PutBack, GiveUp, Nothing]);
        in_force.judge(now, &seen(1, 5));
        assert_eq!(in_force.judge(now + WHILE, &seen(1, 6)), PutBack);
    }

    #[test]
    fn where_nothing_steers_nothing_is_put_back() {
        let mut in_force = InForce::default();
        for unasked in 0..5 {
            let kernel = Snapshot { policy: Policy::Kernel, ..seen(0, unasked) };
            assert_eq!(in_force.judge(Instant::now(), &kernel), Verdict::Nothing);
        }
    }
}
