//! What became of every request, and who is to blame. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use balancer_lab::report::ErrorKind;

/// A request on one connection.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The client's port; none where it was never connected.
    pub port: Option<u16>,
    /// Whether the connection was made for it.
    pub connected: bool,
    /// When it began to connect, or, on a connection that was open already, to ask.
    pub begun: Instant,
    /// When it was answered, or failed.
    pub ended: Instant,
    /// Who has answered on this connection, now or before.
    pub worker: Option<u32>,
    /// Why there is no answer.
    pub failure: Option<ErrorKind>,
}

/// A request: a second attempt is made only where a connection was closed that had served before
/// (RFC 9112, 9.3.1: a client cannot know whether its request crossed the server's goodbye).
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it was due.
    pub due: Instant,
    /// Whether its client took its time.
    pub slow: bool,
    /// One, or two.
    pub attempts: Vec<Attempt>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Answered.
    Served,
    /// Answered at the second attempt: its worker was ending as it was told to, or was killed.
    ServedAgain,
    /// A worker had accepted its connection, and was killed.
    WithKilledWorker,
    /// It began to connect while a worker that was killed was dying: a handshake that ends in the
    /// moment in which its listener closes is lost by the kernel (`inet_csk_reqsk_queue_add`), whoever
    /// moves what waits there.
    AtDeath,
    /// Lost, and nobody to blame.
    Lost(&'static str),
}

/// A worker that was killed.
#[derive(Clone, Debug)]
struct Death {
    /// When it was stopped; from then on it accepted nothing.
    stopped: Instant,
    /// The client's port of each connection that it had accepted.
    accepted: HashSet<u16>,
    /// From the signal until its sockets were closed.
    dying: Option<(Instant, Instant)>,
}

/// Who died, and with what in hand.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    killed: Vec<Death>,
    told_to_end: HashMap<u32, Instant>,
}

impl Ledger {
    /// A worker was stopped that had accepted the connections of these clients, and killed.
    pub fn killed(
        &mut self,
        worker: u32,
        stopped: Instant,
        accepted: HashSet<u16>,
        dying: Option<(Instant, Instant)>,
    ) {
        self.killed.push(Death { stopped, accepted, dying });
        // It may have been told before, and be about to end.
        self.told_to_end.entry(worker).or_insert(stopped);
    }

    /// A worker is about to be told to end, or has told so itself.
    pub fn ends(&mut self, worker: u32) {
        self.told_to_end.entry(worker).or_insert_with(Instant::now);
    }

    /// What became of a request.
    pub fn fate(&self, asked: &Asked) -> Fate {
        let [before @ .., last] = asked.attempts.as_slice() else { return Fate::Lost("not tried") };
        let ended = |worker| self.told_to_end.get(&worker).is_some_and(|at| *at <= last.ended);
        if let Some(attempt) = before.iter().find(|attempt| !attempt.worker.is_some_and(ended)) {
            return attempt.failure.map_or(Fate::Served, lost);
        }
        match last.failure {
            None if before.is_empty() => Fate::Served,
            None => Fate::ServedAgain,
            Some(_) if self.was_in_hand(last) => Fate::WithKilledWorker,
            Some(ErrorKind::Reset | ErrorKind::Closed) if self.came_at_death(last) => Fate::AtDeath,
            Some(kind) => lost(kind),
        }
    }

    /// Whether a worker had accepted its connection when it was killed.
    fn was_in_hand(&self, attempt: &Attempt) -> bool {
        let Some(port) = attempt.port else { return false };
        self.killed.iter().any(|death| {
            let within = (attempt.begun..=attempt.ended).contains(&death.stopped);
            within && death.accepted.contains(&port)
        })
    }

    /// Whether it began to connect while a worker was dying.
    fn came_at_death(&self, attempt: &Attempt) -> bool {
        let mut deaths = self.killed.iter().filter_map(|death| death.dying);
        let came = deaths.any(|(begun, ended)| (begun..=ended).contains(&attempt.begun));
        attempt.worker.is_none() && came
    }

    /// All that is known of a request.
    pub fn describe(&self, asked: &Asked) -> String {
        let attempts = asked.attempts.iter().map(|attempt| {
            let Attempt { port, connected, worker, failure, .. } = *attempt;
            let ended = worker.and_then(|worker| self.told_to_end.get(&worker));
            let before = ended.map(|at| attempt.ended.saturating_duration_since(*at));
            let since = self.killed.iter().rfind(|death| death.stopped <= attempt.ended);
            format!(
                "port {port:?} (connected {connected}), worker {worker:?} (told to end {before:?} \
                 before), {failure:?} after {:?}; {:?} after the last stop",
                attempt.ended - attempt.begun,
                since.map(|death| attempt.ended - death.stopped),
            )
        });
        attempts.collect::<Vec<_>>().join("; then ")
    }

    /// How many requests had which fate.
    pub fn sum(&self, asked: &[Asked]) -> BTreeMap<Fate, usize> {
        let mut sum = BTreeMap::new();
        for asked in asked {
            *sum.entry(self.fate(asked)).or_default() += 1;
        }
        sum
    }
}

fn lost(kind: ErrorKind) -> Fate {
    Fate::Lost(match kind {
        ErrorKind::Refused => "refused",
        ErrorKind::Reset => "reset",
        ErrorKind::Closed => "closed without an answer",
        ErrorKind::Timeout => "no answer in time",
        ErrorKind::Strange => "a strange answer",
        ErrorKind::Other => "otherwise",
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PORT: u16 = 40_000;
    const WORKER: u32 = 7;

    /// Of a connection that is open now.
    fn attempt(worker: Option<u32>, failure: Option<ErrorKind>) -> Attempt {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        Attempt {
            port: Some(PORT),
            connected: true,
            begun: now - second,
            ended: now + second,
            worker,
            failure,
        }
    }

    fn fate(ledger: &Ledger, attempts: &[Attempt]) -> Fate {
        ledger.fate(&Asked { due: Instant::now(), slow: false, attempts: attempts.to_vec() })
    }

    fn killed(ports: &[u16]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.killed(WORKER, Instant::now(), ports.iter().copied().collect(), None);
        ledger
    }

    #[test]
    fn only_what_a_killed_worker_had_accepted_may_be_lost() {
        let reset = [attempt(None, Some(ErrorKind::Reset))];
        assert_eq!(fate(&killed(&[PORT]), &reset), Fate::WithKilledWorker);
        assert_eq!(fate(&killed(&[PORT + 1]), &reset), Fate::Lost("reset"));
        assert_eq!(fate(&Ledger::default(), &reset), Fate::Lost("reset"));
        let never = [Attempt { port: None, ..reset[0] }];
        assert_eq!(fate(&killed(&[PORT]), &never), Fate::Lost("reset"));
    }

    #[test]
    fn who_died_before_or_after_is_not_to_blame() {
        let ledger = killed(&[PORT]);
        let hour = Duration::from_secs(3600);
        let reset = attempt(None, Some(ErrorKind::Reset));
        let later = Attempt { begun: reset.begun + hour, ended: reset.ended + hour, ..reset };
        assert_eq!(fate(&ledger, &[later]), Fate::Lost("reset"));
        let Some(past) = reset.begun.checked_sub(Duration::from_secs(60)) else { return };
        assert_eq!(
            fate(&ledger, &[Attempt { begun: past, ended: past, ..reset }]),
            Fate::Lost("reset")
        );
    }

    #[test]
    fn asking_again_is_for_those_whose_worker_ended() {
        let closed = attempt(Some(WORKER), Some(ErrorKind::Closed));
        let answered = attempt(Some(8), None);
        let mut ledger = Ledger::default();
        assert_eq!(fate(&ledger, &[closed, answered]), Fate::Lost("closed without an answer"));
        ledger.ends(WORKER);
        assert_eq!(fate(&ledger, &[closed, answered]), Fate::ServedAgain);
        let reset = attempt(None, Some(ErrorKind::Reset));
        assert_eq!(fate(&ledger, &[closed, reset]), Fate::Lost("reset"));
        // It closed its connections, and was killed before it had ended.
        ledger.killed(WORKER, answered.ended + Duration::from_secs(1), HashSet::new(), None);
        assert_eq!(fate(&ledger, &[closed, answered]), Fate::ServedAgain);
    }

    #[test]
    fn what_comes_while_a_worker_dies_is_told_from_what_waited_before() {
        let mut ledger = killed(&[]);
        let begun = Instant::now();
        let waited = attempt(None, Some(ErrorKind::Reset));
        let came = Attempt { begun, ..waited };
        assert_eq!(fate(&ledger, &[came]), Fate::Lost("reset"));
        ledger.killed(WORKER, begun, HashSet::new(), Some((begun, Instant::now())));
        assert_eq!(fate(&ledger, &[came]), Fate::AtDeath);
        assert_eq!(fate(&ledger, &[waited]), Fate::Lost("reset"));
        let known = Attempt { worker: Some(WORKER + 1), ..came };
        assert_eq!(fate(&ledger, &[known]), Fate::Lost("reset"));
        let silent = Attempt { failure: Some(ErrorKind::Timeout), ..came };
        assert_eq!(fate(&ledger, &[silent]), Fate::Lost("no answer in time"));
    }

    #[test]
    fn what_was_answered_is_served() {
        assert_eq!(fate(&killed(&[PORT]), &[attempt(Some(WORKER), None)]), Fate::Served);
    }
}
