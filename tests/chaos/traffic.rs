//! The load: requests that come on time, whatever becomes of those before. Most have a connection of
//! their own, a tenth of these by clients that are slow; some clients keep theirs.

use std::{
    net::SocketAddr,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use balancer_lab::{machine, pacer::Pacer};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    time::{MissedTickBehavior, interval},
};

use crate::{
    client::{Connection, ask_once, ask_slowly},
    ledger::Asked,
};

/// How long a slow client takes to ask: longer than a reload waits before it tells a worker to end,
/// and shorter than that and what it then waits for the end.
const SLOW: Duration = Duration::from_millis(500);

/// How much comes.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests a second with a connection of their own.
    pub alone: u32,
    /// Clients that keep their connection.
    pub keepers: u32,
    /// Requests a second of each of these.
    pub each: u32,
}

/// Requests on their way.
pub struct Traffic {
    /// How many more are to come at once; closed to end it.
    bursts: UnboundedSender<usize>,
    generator: JoinHandle<Vec<Asked>>,
}

impl Traffic {
    /// Begins. It shares the host of the thread that calls.
    pub fn start(address: SocketAddr, rate: Rate) -> Self {
        let (bursts, wanted) = unbounded_channel();
        let generator = thread::spawn(move || {
            // Clients are elsewhere, as a rule. Where it may not, it is late.
            let _ = machine::prefer_this_thread();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("an event loop").block_on(generate(address, rate, wanted))
        });
        Self { bursts, generator }
    }

    /// So many more, now.
    pub fn burst(&self, count: usize) {
        let _ = self.bursts.send(count);
    }

    /// Ends it, and waits for what is under way.
    pub fn end(self) -> Vec<Asked> {
        drop(self.bursts);
        self.generator.join().expect("the generator")
    }
}

async fn generate(
    address: SocketAddr,
    rate: Rate,
    mut bursts: UnboundedReceiver<usize>,
) -> Vec<Asked> {
    let pacer = Pacer::new().expect("a timer");
    let (report, mut reported) = unbounded_channel();
    let (end, over) = watch::channel(());
    for _ in 0..rate.keepers {
        tokio::spawn(keep(address, rate.each, report.clone(), over.clone()));
    }
    let every = Duration::from_secs(1) / rate.alone;
    let alone = |due, slow| {
        let report = report.clone();
        tokio::spawn(async move {
            let asked =
                if slow { ask_slowly(address, SLOW).await } else { ask_once(address).await };
            let _ = report.send(Asked { due, slow, attempts: vec![asked] });
        })
    };
    let mut due = Instant::now();
    let mut slow = (0..10).map(|n| n == 0).cycle();
    loop {
        tokio::select! {
            ready = pacer.until(due) => {
                ready.expect("a timer");
                alone(due, slow.next() == Some(true));
                due += every;
            }
            burst = bursts.recv() => match burst {
                Some(count) => (0..count).for_each(|_| drop(alone(Instant::now(), false))),
                None => break,
            }
        }
    }
    drop((end, report));
    let mut all = Vec::new();
    while let Some(asked) = reported.recv().await {
        all.push(asked);
    }
    all
}

/// Asks again and again over one connection, and opens another where it was closed.
async fn keep(
    address: SocketAddr,
    each: u32,
    report: UnboundedSender<Asked>,
    mut over: watch::Receiver<()>,
) {
    let mut ticks = interval(Duration::from_secs(1) / each);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept: Option<Connection> = None;
    loop {
        let due = tokio::select! {
            due = ticks.tick() => due.into_std(),
            _ = over.changed() => return,
        };
        let mut attempts = Vec::new();
        if let Some(mut connection) = kept.take().filter(|kept| !kept.is_closed()) {
            let attempt = connection.ask(false).await;
            attempts.push(attempt);
            kept = attempt.failure.is_none().then_some(connection);
        }
        if kept.is_none() {
            let (connection, attempt) = Connection::open_and_ask(address, false).await;
            attempts.push(attempt);
            kept = connection.filter(|_| attempt.failure.is_none());
        }
        let _ = report.send(Asked { due, slow: false, attempts });
    }
}
