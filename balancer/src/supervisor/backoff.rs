//! How long to wait before a worker that died is started again. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// A worker that lived this long was well, and its next death is a first one again.
const WELL: Duration = Duration::from_secs(10);

/// Delays that double from death to death.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The delay after a death of a worker that lived that long.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived >= WELL {
            self.deaths = 0;
        }
        let delay = FIRST.saturating_mul(2u32.saturating_pow(self.deaths)).min(LONGEST);
        self.deaths = self.deaths.saturating_add(1);
        delay
    }

    /// How many deaths came one after another.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> =
            (0..9).map(|_| backoff.after(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }

    #[test]
    fn a_worker_that_was_well_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after(Duration::ZERO);
        }
        assert_eq!(backoff.after(WELL), FIRST);
    }

    #[test]
    fn a_thousand_deaths_do_not_overflow() {
        let mut backoff = Backoff::default();
        let last = (0..1000).map(|_| backoff.after(Duration::ZERO)).last();
        assert_eq!(last, Some(LONGEST));
    }
}
