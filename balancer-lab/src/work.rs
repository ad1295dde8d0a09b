//! Made-up work: what a worker does for a request of a comparison, said in the request's path.

use std::{hint::black_box, thread, time::Duration};

use hyper::header::HeaderName;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The response header with the slot of the worker that answers.
pub const SLOT_HEADER: HeaderName = HeaderName::from_static("x-balancer-slot");

/// What a worker does for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It waits, and serves others meanwhile.
    Wait,
    /// It waits, and its loop with it.
    Block,
    /// It uses the CPU, and its loop stands still.
    Burn,
}

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// What kind.
    pub kind: Kind,
    /// How long, in microseconds.
    pub micros: u32,
}

impl Kind {
    const ALL: [(Self, &str); 3] =
        [(Self::Wait, "wait"), (Self::Block, "block"), (Self::Burn, "burn")];
}

impl Work {
    /// The path that asks for it: `/block/1000`.
    pub fn path(self) -> String {
        let (_, kind) = Kind::ALL[self.kind as usize];
        format!("/{kind}/{}", self.micros)
    }

    /// What a path asks for.
    pub fn from_path(path: &str) -> Option<Self> {
        let (name, micros) = path.strip_prefix('/')?.split_once('/')?;
        let (kind, _) = Kind::ALL.into_iter().find(|(_, known)| *known == name)?;
        Some(Self { kind, micros: micros.parse().ok()? })
    }

    /// Does it. Waiting has the event loop's resolution of a millisecond.
    pub async fn perform(self) {
        let time = Duration::from_micros(self.micros.into());
        match self.kind {
            _ if time.is_zero() => {}
            Kind::Wait => tokio::time::sleep(time).await,
            Kind::Block => thread::sleep(time),
            Kind::Burn => {
                let end = cpu_time() + time;
                while cpu_time() < end {
                    compute();
                }
            }
        }
    }
}

/// Some microseconds of it. To do nothing but ask for the time would load the kernel instead, which
/// locks the CPU's run queue to answer.
fn compute() {
    let mut number = 1u64;
    for _ in 0..10_000 {
        number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// The CPU time that this thread has used.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_read_back_from_its_path() {
        for (kind, _) in Kind::ALL {
            let work = Work { kind, micros: 1500 };
            assert_eq!(Work::from_path(&work.path()), Some(work));
        }
        for path in ["", "/", "/wait", "/wait/", "/wait/-1", "/sleep/1", "/wait/1/2", "wait/1"] {
            assert_eq!(Work::from_path(path), None, "{path}");
        }
    }

    #[tokio::test]
    async fn burning_uses_as_much_cpu_as_was_asked_for() {
        let before = cpu_time();
        Work { kind: Kind::Burn, micros: 3000 }.perform().await;
        assert!(cpu_time() - before >= Duration::from_micros(3000));
    }
}
