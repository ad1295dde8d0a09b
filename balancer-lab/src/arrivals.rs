//! When which request is due, and what it costs: drawn from a seed, the same for every contender.
//! Pure.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp, Exp1, Zipf};

use super::scenario::{Arrivals, Connections, Scenario};
use crate::work::Work;

/// A request to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it is due, from the beginning.
    pub due: Duration,
    /// Which of the connections that stay it takes; none: one of its own.
    pub connection: Option<usize>,
    /// What the worker shall do.
    pub work: Work,
}

/// All requests of a trial, in the order in which they are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The requests.
    pub requests: Vec<Request>,
    /// How many connections are opened at first and stay.
    pub connections: usize,
}

/// Draws the schedule of one round. The same seed and round give the same schedule on every machine
/// with as many CPUs, and with every later version: ChaCha8 is a fixed algorithm.
///
/// # Errors
/// Returns an error if the scenario's numbers make no sense, such as a rate of 0.
pub fn schedule(scenario: &Scenario, cpus: usize, seed: u64, round: u64) -> Result<Schedule> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(round);
    let name = &scenario.name;
    let rate = scenario.rate.on(cpus);
    let zipf = match scenario.connections {
        Connections::PerRequest => None,
        Connections::KeepAlive { count, exponent } => Some(
            Zipf::new(count as f64, exponent)
                .with_context(|| format!("{name}: its connections have no such distribution"))?,
        ),
    };
    let mut requests = Vec::with_capacity(scenario.requests);
    for due in due_times(scenario, rate, &mut random).with_context(|| format!("{name}: rate"))? {
        requests.push(Request {
            due,
            connection: zipf.map(|zipf| rank(zipf.sample(&mut random))),
            work: work(scenario, &mut random),
        });
    }
    let connections = match scenario.connections {
        Connections::PerRequest => 0,
        Connections::KeepAlive { count, .. } => count,
    };
    Ok(Schedule { requests, connections })
}

fn due_times(scenario: &Scenario, rate: f64, random: &mut ChaCha8Rng) -> Result<Vec<Duration>> {
    let gaps = Exp::new(rate)?;
    let mut poisson = |count: usize| {
        let mut now = 0.0;
        let next = |_| {
            now += gaps.sample(random);
            Duration::try_from_secs_f64(now)
        };
        (0..count).map(next).collect::<Result<Vec<_>, _>>()
    };
    Ok(match scenario.arrivals {
        Arrivals::Fixed => {
            let due = |index: usize| Duration::try_from_secs_f64(index as f64 / rate);
            (0..scenario.requests).map(due).collect::<Result<_, _>>()?
        }
        Arrivals::Poisson => poisson(scenario.requests)?,
        Arrivals::Bursts { size, bursts } => {
            let steady = scenario.requests.saturating_sub(size * bursts);
            let mut due = poisson(steady)?;
            let whole = Duration::try_from_secs_f64(steady as f64 / rate)?;
            for burst in 1..=u32::try_from(bursts)? {
                let at = whole * burst / (u32::try_from(bursts)? + 1);
                due.extend(std::iter::repeat_n(at, size));
            }
            due.sort_unstable();
            due
        }
    })
}

/// A rank from 1 on, as the distribution gives it, to an index.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to a small count")]
fn rank(sample: f64) -> usize {
    sample as usize - 1
}

fn work(scenario: &Scenario, random: &mut ChaCha8Rng) -> Work {
    let service = scenario.service;
    let slow = service.tail.filter(|tail| random.random_ratio(1, tail.one_in.max(1)));
    let micros = slow.map_or(service.micros, |tail| tail.micros);
    let micros = if service.exponential { exponential(micros, random) } else { micros };
    Work { kind: service.kind, micros }
}

/// A time of this mean.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn exponential(mean: u32, random: &mut ChaCha8Rng) -> u32 {
    let time: f64 = Exp1.sample(random);
    (time * f64::from(mean)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::standard;

    fn named(name: &str) -> Scenario {
        standard().into_iter().find(|scenario| scenario.name == name).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_another() {
        for scenario in standard() {
            let draw = |seed, round| schedule(&scenario, 2, seed, round).unwrap();
            assert_eq!(draw(1, 0), draw(1, 0), "{}", scenario.name);
            if scenario.arrivals != Arrivals::Fixed {
                assert_ne!(draw(1, 0), draw(2, 0), "{}", scenario.name);
                assert_ne!(draw(1, 0), draw(1, 1), "{}", scenario.name);
            }
        }
    }

    /// The numbers were written down once: a later version must draw the same.
    #[test]
    fn a_schedule_stays_what_it_was() {
        let first = schedule(&named("heavy-tail"), 2, 7, 3).unwrap();
        let seen: Vec<_> =
            first.requests[..4].iter().map(|r| (r.due.as_micros(), r.work.micros)).collect();
        let known = [(8469, 10_000), (14_069, 10_000), (25_578, 10_000), (46_760, 10_000)];
        assert_eq!(seen, known);
    }

    #[test]
    fn requests_are_as_many_as_asked_for_and_come_at_the_rate_in_order() {
        for scenario in standard() {
            let many = Scenario { requests: 20_000, ..scenario };
            let requests = schedule(&many, 2, 1, 0).unwrap().requests;
            assert_eq!(requests.len(), 20_000);
            assert!(requests.is_sorted_by_key(|request| request.due));
            let rate = 20_000.0 / requests[19_999].due.as_secs_f64();
            assert!((rate / many.rate.on(2) - 1.0).abs() < 0.03, "{}: {rate}", many.name);
        }
    }

    #[test]
    fn a_burst_is_due_at_one_instant() {
        let requests = schedule(&named("burst"), 2, 1, 0).unwrap().requests;
        let bursts = requests.chunk_by(|a, b| a.due == b.due).filter(|same| same.len() == 100);
        assert_eq!(bursts.count(), 2);
    }

    #[test]
    fn one_request_in_four_is_in_the_tail() {
        let many = Scenario { requests: 20_000, ..named("heavy-tail") };
        let requests = schedule(&many, 2, 1, 0).unwrap().requests;
        let slow = requests.iter().filter(|request| request.work.micros == 150_000).count();
        assert!((4800..5200).contains(&slow), "{slow}");
    }

    #[test]
    fn some_connections_are_busier_than_others_by_zipfs_law() {
        let many = Scenario { requests: 50_000, ..named("long-lived") };
        let schedule = schedule(&many, 2, 1, 0).unwrap();
        let of = |rank| schedule.requests.iter().filter(|r| r.connection == Some(rank)).count();
        let ratio = of(0) as f64 / of(9) as f64;
        assert!((9.0..11.0).contains(&ratio), "{ratio}");
        assert!(schedule.requests.iter().all(|r| r.connection < Some(200)));
        assert_eq!(schedule.connections, 200);
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        let never = Scenario { rate: crate::scenario::Rate::PerCpu(0.0), ..named("few") };
        assert!(schedule(&never, 2, 1, 0).is_err());
    }
}
