//! What is done to workers during a trial, step by step. Pure: the trial carries the steps out.

use std::time::Duration;

use super::scenario::Fault;

/// What is done to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It stands still.
    Stop(usize),
    /// It goes on.
    Continue(usize),
    /// It makes room for another.
    Replace(usize),
}

/// The steps of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    fault: Fault,
    workers: usize,
    next: Option<(Duration, Step)>,
}

/// The one that faults of a single worker befall.
const VICTIM: usize = 0;

impl Script {
    /// Before the first step.
    pub fn new(fault: Fault, workers: usize) -> Self {
        let next = match fault {
            Fault::None | Fault::Slow { .. } => None,
            Fault::Stall { from_ms, .. } => {
                Some((Duration::from_millis(from_ms), Step::Stop(VICTIM)))
            }
            Fault::Restart { from_ms } => Some((Duration::from_millis(from_ms), Step::Replace(0))),
        };
        Self { fault, workers, next }
    }

    /// The next step, and when in the trial it is due.
    pub fn next(&self) -> Option<(Duration, Step)> {
        self.next
    }

    /// The next step was taken.
    pub fn taken(&mut self) {
        self.next = match (self.next, self.fault) {
            (Some((at, Step::Stop(worker))), Fault::Stall { for_ms, .. }) => {
                Some((at + Duration::from_millis(for_ms), Step::Continue(worker)))
            }
            _ => None,
        };
    }

    /// A worker that had to make room has a successor.
    pub fn back(&mut self, worker: usize) {
        let another = worker + 1;
        if let Fault::Restart { from_ms } = self.fault
            && another < self.workers
        {
            // Due since long.
            self.next = Some((Duration::from_millis(from_ms), Step::Replace(another)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stalled_worker_is_stopped_and_continued_once() {
        let mut script = Script::new(Fault::Stall { from_ms: 300, for_ms: 400 }, 4);
        assert_eq!(script.next(), Some((ms(300), Step::Stop(0))));
        script.taken();
        assert_eq!(script.next(), Some((ms(700), Step::Continue(0))));
        script.taken();
        assert_eq!(script.next(), None);
    }

    #[test]
    fn each_worker_is_replaced_when_the_one_before_is_back() {
        let mut script = Script::new(Fault::Restart { from_ms: 100 }, 3);
        for worker in 0..3 {
            assert_eq!(script.next(), Some((ms(100), Step::Replace(worker))));
            script.taken();
            assert_eq!(script.next(), None);
            script.back(worker);
        }
        assert_eq!(script.next(), None);
    }

    #[test]
    fn without_a_fault_nothing_is_done() {
        for fault in [Fault::None, Fault::Slow { factor: 4 }] {
            let mut script = Script::new(fault, 4);
            script.back(0);
            assert_eq!(script.next(), None);
        }
    }
}
