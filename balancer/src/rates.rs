//! What two snapshots tell together: rates. Pure.

use std::time::Duration;

use balancer_steering::snapshot::Snapshot;

/// Connections a second between two snapshots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Of all members together, those that left included.
    pub total: f64,
    /// Of each member of the later snapshot, in its order.
    pub members: Vec<f64>,
}

impl Rates {
    /// Compares two snapshots taken `elapsed` apart. A member new in the later one starts from 0.
    pub fn between(earlier: &Snapshot, later: &Snapshot, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        // Counted as the later snapshot counts, so that a policy switch makes no jump.
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let count = |tally| later.connections(tally);
        let members = later.members.iter().map(|member| {
            let same = |other: &&balancer_steering::snapshot::MemberInfo| {
                other.slot == member.slot && other.pid == member.pid
            };
            let before = earlier.members.iter().find(same).map_or(0, |other| count(other.tally));
            rate(before, count(member.tally))
        });
        Self {
            total: rate(count(earlier.total()), count(later.total())),
            members: members.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balancer_steering::testing::snapshot as example;

    #[test]
    fn a_rate_is_the_difference_over_the_time() {
        let earlier = example();
        let mut later = example();
        later.members[0].tally.established += 100;
        later.members[1].tally.established += 50;
        let rates = Rates::between(&earlier, &later, Duration::from_millis(500));
        assert_eq!(rates, Rates { total: 300.0, members: vec![200.0, 100.0, 0.0] });
    }

    #[test]
    fn a_member_in_a_slot_that_somebody_had_starts_from_nothing() {
        let earlier = example();
        let mut later = example();
        later.members[0].pid = 9999;
        later.members[0].tally.established = 10;
        let rates = Rates::between(&earlier, &later, Duration::from_secs(1));
        assert!((rates.members[0] - 10.0).abs() < f64::EPSILON);
    }
}
