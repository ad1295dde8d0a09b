//! Slow start: how much of its weight a new worker has. Pure.

use std::time::Duration;

use balancer_common::{MAX_WEIGHT, load::MAX_SHARE};

/// The factor of a worker that has all of its weight. Shares are weights times this, so that a tenth
/// and each step from there are whole numbers.
pub const FULL: u32 = 20;

const COLD: u32 = FULL / 10;

const _: () = assert!(MAX_WEIGHT as u32 * FULL <= MAX_SHARE);

/// How warm a worker is: a tenth of [`FULL`] at first, then more in steps of equal length, [`FULL`] from
/// `time` on.
pub fn factor(age: Duration, time: Duration) -> u32 {
    let steps = u128::from(FULL - COLD);
    let passed = (age.as_nanos() * steps).checked_div(time.as_nanos()).unwrap_or(steps);
    COLD + u32::try_from(passed.min(steps)).unwrap_or_default()
}

/// How long a step takes.
pub fn step(time: Duration) -> Duration {
    time / (FULL - COLD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    proptest! {
        #[test]
        fn a_worker_starts_with_a_tenth_and_has_it_all_in_time(millis in 1..=u32::MAX, more: u32) {
            let time = Duration::from_millis(millis.into());
            prop_assert_eq!(factor(NO_TIME, time), FULL / 10);
            prop_assert!(factor(time - Duration::from_nanos(1), time) < FULL);
            prop_assert_eq!(factor(time + Duration::from_millis(more.into()), time), FULL);
        }

        #[test]
        fn warmth_never_shrinks_and_is_within_a_step_of_the_line(
            millis in 1..=u32::MAX, part in 0.0..1.0f64, later: u32,
        ) {
            let time = Duration::from_millis(millis.into());
            let age = time.mul_f64(part);
            let now = f64::from(factor(age, time));
            let line = f64::from(COLD) + f64::from(FULL - COLD) * part;
            prop_assert!(now <= line + 1e-3 && line < now + 1.0 + 1e-3, "{now} for {line}");
            prop_assert!(factor(age + Duration::from_millis(later.into()), time) >= factor(age, time));
        }

        #[test]
        fn a_step_later_it_is_warmer(millis in 1..=u32::MAX, steps in 0..FULL - COLD) {
            let time = Duration::from_millis(millis.into());
            // Rounding takes less than a nanosecond a step.
            let age = step(time) * steps + Duration::from_nanos(steps.into());
            prop_assert_eq!(factor(age, time), COLD + steps);
        }
    }

    #[test]
    fn without_a_time_to_warm_up_nobody_is_cold() {
        assert_eq!(factor(NO_TIME, NO_TIME), FULL);
    }
}
