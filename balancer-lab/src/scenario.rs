//! The scenarios: a row each. A new one is a row in [`standard`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::work::Kind;

/// A load, the workers that serve it, and what goes wrong meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: Cow<'static, str>,
    /// What it is, in a few words.
    pub about: Cow<'static, str>,
    /// How many workers serve.
    pub workers: usize,
    /// Their weights, for the policies that go by weight; none: equal ones.
    #[serde(default, skip_serializing_if = "<[u16]>::is_empty")]
    pub weights: Cow<'static, [u16]>,
    /// When requests are due.
    pub arrivals: Arrivals,
    /// How many requests a second, on average.
    pub rate: Rate,
    /// How many requests a trial.
    pub requests: usize,
    /// What a request costs.
    pub service: Service,
    /// Which connection a request takes.
    pub connections: Connections,
    /// What goes wrong meanwhile.
    pub fault: Fault,
}

impl Scenario {
    /// The same with so many workers: each has as much to do, for as long. A rate that goes by the CPUs
    /// stays.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        let factor = workers as f64 / self.workers as f64;
        if let Rate::PerSecond(rate) = &mut self.rate {
            *rate *= factor;
            self.requests = (self.requests * workers).div_ceil(self.workers);
        }
        if let Some(&last) = self.weights.last() {
            self.weights.to_mut().resize(workers, last);
        }
        self.workers = workers;
        self
    }
}

/// When requests are due. None waits for another's answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// At equal distances.
    Fixed,
    /// At exponentially distributed distances: independent clients.
    Poisson,
    /// As Poisson, and that many more at one instant, so many times, evenly spread.
    Bursts {
        /// Requests a burst.
        size: usize,
        /// Bursts a trial.
        bursts: usize,
    },
}

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rate {
    /// The same on every machine.
    PerSecond(f64),
    /// Times the CPUs of the machine.
    PerCpu(f64),
}

impl Rate {
    /// Requests a second on a machine with so many CPUs.
    pub fn on(self, cpus: usize) -> f64 {
        match self {
            Self::PerSecond(rate) => rate,
            Self::PerCpu(rate) => rate * cpus as f64,
        }
    }
}

/// What a request costs the worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// What the worker does for it.
    pub kind: Kind,
    /// How long, in microseconds.
    pub micros: u32,
    /// Whether that is a mean, and times are exponentially distributed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exponential: bool,
    /// Some of the requests take longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Tail>,
}

/// Requests that take longer than the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    /// On average, one in so many requests.
    pub one_in: u32,
    /// How long, in microseconds.
    pub micros: u32,
}

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// One of its own.
    PerRequest,
    /// One of so many that are opened at first and stay: the k-th with a probability
    /// proportional to `1 / k^exponent` (Zipf).
    KeepAlive {
        /// How many.
        count: usize,
        /// Above 0; the larger, the more uneven.
        exponent: f64,
    },
}

/// What goes wrong. Worker 0 is the one that suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing.
    None,
    /// One worker takes so many times as long for everything.
    Slow {
        /// How many times.
        factor: u32,
    },
    /// One worker stands still, once a trial.
    Stall {
        /// From when on, in milliseconds of the trial.
        from_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Each worker is ended by SIGTERM and started again, one after another.
    Restart {
        /// The first one's end, in milliseconds of the trial.
        from_ms: u64,
    },
}

/// The scenarios that are compared unless others are asked for.
pub fn standard() -> Vec<Scenario> {
    let wait = |micros| Service { kind: Kind::Wait, micros, exponential: false, tail: None };
    let block = |micros| Service { kind: Kind::Block, micros, exponential: false, tail: None };
    let plain = Scenario {
        name: Cow::Borrowed(""),
        about: Cow::Borrowed(""),
        workers: 4,
        weights: Cow::Borrowed(&[]),
        arrivals: Arrivals::Poisson,
        rate: Rate::PerSecond(400.0),
        requests: 200,
        service: wait(0),
        connections: Connections::PerRequest,
        fault: Fault::None,
    };
    vec![
        Scenario {
            name: Cow::Borrowed("few"),
            about: Cow::Borrowed("40 connections, one after another"),
            arrivals: Arrivals::Fixed,
            rate: Rate::PerSecond(200.0),
            requests: 40,
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("short"),
            about: Cow::Borrowed("one connection per request, many of them, cheap"),
            rate: Rate::PerCpu(700.0),
            requests: 700,
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("blocking"),
            about: Cow::Borrowed("one connection per request, 1 ms of blocking work each"),
            rate: Rate::PerSecond(1200.0),
            requests: 600,
            service: block(1000),
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("long-lived"),
            about: Cow::Borrowed("200 connections that stay open, some far busier than others"),
            rate: Rate::PerSecond(1200.0),
            requests: 600,
            service: block(1000),
            connections: Connections::KeepAlive { count: 200, exponent: 1.0 },
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("costly"),
            about: Cow::Borrowed("one connection per request, 2 ms of CPU each"),
            rate: Rate::PerCpu(250.0),
            requests: 300,
            service: Service { kind: Kind::Burn, micros: 2000, exponential: false, tail: None },
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("heavy-tail"),
            about: Cow::Borrowed("blocking work: 10 ms, but 150 ms for one request in four"),
            rate: Rate::PerSecond(40.0),
            requests: 40,
            service: Service { tail: Some(Tail { one_in: 4, micros: 150_000 }), ..block(10_000) },
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("exponential"),
            about: Cow::Borrowed("blocking work, exponentially distributed, at 70 %: as in theory"),
            rate: Rate::PerSecond(280.0),
            requests: 560,
            service: Service { exponential: true, ..block(10_000) },
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("slow-equal"),
            about: Cow::Borrowed("as slow-worker, with equal weights"),
            service: block(2000),
            fault: Fault::Slow { factor: 4 },
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("slow-worker"),
            about: Cow::Borrowed("2 ms of blocking work, but 8 ms on one of the workers"),
            weights: Cow::Borrowed(&[1, 4, 4, 4]),
            service: block(2000),
            fault: Fault::Slow { factor: 4 },
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("stalled-worker"),
            about: Cow::Borrowed("one worker is stopped for 400 ms of every second"),
            rate: Rate::PerSecond(400.0),
            requests: 400,
            fault: Fault::Stall { from_ms: 300, for_ms: 400 },
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("burst"),
            about: Cow::Borrowed("a steady load, and bursts of 100 connections at once"),
            arrivals: Arrivals::Bursts { size: 100, bursts: 2 },
            requests: 400,
            service: block(1000),
            ..plain.clone()
        },
        Scenario {
            name: Cow::Borrowed("restart"),
            about: Cow::Borrowed("each worker is stopped and started again, one after another"),
            requests: 400,
            service: wait(5000),
            fault: Fault::Restart { from_ms: 100 },
            ..plain
        },
    ]
}
