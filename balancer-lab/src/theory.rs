//! What queueing theory says of a scenario: how long requests take at best, and under choices that know
//! nothing of the workers. It holds where arrivals are a Poisson process and service times exponentially
//! distributed, so a report can show what is left to win. Pure.
//!
//! Formulas: L. Kleinrock, *Queueing Systems*, volume 1 (1975): M/M/1 and M/M/m in chapter 3, G/M/1 in
//! chapter 6.

use crate::scenario::{Arrivals, Connections, Fault, Scenario};

/// A way to choose, as a queueing system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Each worker has its own queue, and is chosen at random (k × M/M/1): what a hash does.
    Random,
    /// Each worker has its own queue, and they take turns (`E_k`/M/1).
    Rotation,
    /// All workers serve one queue (M/M/k): no choice at arrival does better.
    OneQueue,
}

impl Model {
    /// All of them, the slowest first.
    pub const ALL: [Self; 3] = [Self::Random, Self::Rotation, Self::OneQueue];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "theory: hash",
            Self::Rotation => "theory: rotation",
            Self::OneQueue => "theory: one queue",
        }
    }
}

/// A scenario for which theory has an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Theory {
    /// Requests a second.
    arrivals: f64,
    /// Requests a second that one worker can serve.
    service: f64,
    workers: u32,
}

impl Theory {
    /// `None` where it has none: other arrivals or service times, connections that stay, a fault, or more
    /// than the workers can do.
    pub fn of(scenario: &Scenario, cpus: usize) -> Option<Self> {
        let theory = Self {
            arrivals: scenario.rate.on(cpus),
            service: 1e6 / f64::from(scenario.service.micros),
            workers: u32::try_from(scenario.workers).ok()?,
        };
        let holds = scenario.service.exponential
            && scenario.arrivals == Arrivals::Poisson
            && scenario.connections == Connections::PerRequest
            && scenario.fault == Fault::None
            && theory.arrivals > 0.0
            && scenario.service.micros > 0
            && scenario.workers > 0
            && theory.load() < 1.0;
        holds.then_some(theory)
    }

    /// What share of their time the workers are busy.
    pub fn load(self) -> f64 {
        self.arrivals / (self.service * f64::from(self.workers))
    }

    /// How many seconds a share of the requests, 0 to below 1, takes at most, from arrival to answer.
    pub fn quantile(self, model: Model, share: f64) -> f64 {
        let rate = match model {
            Model::Random => self.service - self.arrivals / f64::from(self.workers),
            Model::Rotation => self.service * (1.0 - self.met_by_rotation()),
            Model::OneQueue => return root(|time| share - self.within_in_one_queue(time)),
        };
        -(1.0 - share).ln() / rate
    }

    /// The root of σ = A*(μ − μσ): the probability that a request finds its worker at work. Between two
    /// requests for one worker there are k of the Poisson process, so A*(s) = (λ / (λ + s))^k.
    fn met_by_rotation(self) -> f64 {
        let k = f64::from(self.workers);
        let next = |sigma: f64| {
            let slower = self.service * (1.0 - sigma);
            (self.arrivals / (self.arrivals + slower)).powf(k)
        };
        // From 0 it rises to the root below 1; the other one is 1.
        (0..10_000).fold(0.0, |sigma, _| next(sigma))
    }

    /// The probability that all workers are at work (Erlang's C), by the recursion of Erlang's B.
    fn all_at_work(self) -> f64 {
        let offered = self.arrivals / self.service;
        let blocked = (1..=self.workers)
            .fold(1.0, |blocked, k| offered * blocked / (f64::from(k) + offered * blocked));
        blocked / (1.0 - self.load() * (1.0 - blocked))
    }

    /// The probability that a request is answered within a time. One in C waits, exponentially long, and
    /// is served then.
    fn within_in_one_queue(self, time: f64) -> f64 {
        let (mu, theta) = (self.service, f64::from(self.workers) * self.service - self.arrivals);
        let served = (-mu * time).exp();
        // Beyond a time: the sum of two exponential ones, of rates μ and θ.
        let both = if (theta - mu).abs() < 1e-9 * mu {
            served * (1.0 + mu * time)
        } else {
            (theta * served - mu * (-theta * time).exp()) / (theta - mu)
        };
        let waits = self.all_at_work();
        1.0 - (1.0 - waits) * served - waits * both
    }
}

/// Where a falling function is 0, above 0.
fn root(falling: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while falling(high) > 0.0 {
        high *= 2.0;
    }
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if falling(middle) > 0.0 { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution as _, Exp, Uniform};

    use super::*;

    const SHARES: [f64; 3] = [0.5, 0.9, 0.99];

    /// The times of a simulated system, sorted.
    fn simulated(theory: Theory, model: Model) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let gaps = Exp::new(theory.arrivals).unwrap();
        let services = Exp::new(theory.service).unwrap();
        let workers = usize::try_from(theory.workers).unwrap();
        let any = Uniform::new(0, workers).unwrap();
        let (mut now, mut free) = (0.0, vec![0.0f64; workers]);
        let mut times: Vec<f64> = (0..400_000)
            .map(|turn| {
                now += gaps.sample(&mut random);
                let first = || (0..workers).min_by(|&a, &b| free[a].total_cmp(&free[b])).unwrap();
                let worker = match model {
                    Model::Random => any.sample(&mut random),
                    Model::Rotation => turn % workers,
                    Model::OneQueue => first(),
                };
                free[worker] = free[worker].max(now) + services.sample(&mut random);
                free[worker] - now
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        times
    }

    #[test]
    fn a_simulation_finds_what_theory_says() {
        for workers in [2, 4, 16] {
            let theory = Theory { arrivals: 70.0 * f64::from(workers), service: 100.0, workers };
            for model in Model::ALL {
                let times = simulated(theory, model);
                for share in SHARES {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a rank"
                    )]
                    let found = times[(share * times.len() as f64) as usize];
                    let said = theory.quantile(model, share);
                    assert!(
                        (found / said - 1.0).abs() < 0.05,
                        "{workers} {model:?}: {found} {said}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn one_queue_is_never_slower_than_a_rotation_nor_that_than_a_hash(
            workers in 1..64u32, load in 0.05..0.97f64, share in 0.01..0.999f64,
        ) {
            let theory = Theory { arrivals: load * 10.0 * f64::from(workers), service: 10.0, workers };
            let [random, rotation, one] = Model::ALL.map(|model| theory.quantile(model, share));
            prop_assert!(one <= rotation * 1.000_1 && rotation <= random * 1.000_1);
        }
    }

    #[test]
    fn with_one_worker_there_is_nothing_to_choose() {
        let theory = Theory { arrivals: 5.0, service: 10.0, workers: 1 };
        let [random, rotation, one] = Model::ALL.map(|model| theory.quantile(model, 0.9));
        assert!((random - rotation).abs() < 1e-6 && (random - one).abs() < 1e-6, "{random} {one}");
    }
}
