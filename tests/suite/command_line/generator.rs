//! Whether the load generator can be trusted: against a server whose delays are known, its figures
//! must be those that follow from them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use balancer_lab::{
    arrivals::{Request, Schedule},
    generator::Load,
    idle_inhibitor::IdleInhibitor,
    machine,
    measure::{measure, objection},
    report::Distribution,
    work::{Kind, Work},
};
use harness::Host;

/// A server that answers each request after a delay, and that stands still for a while.
#[derive(Clone, Copy)]
struct Server {
    delay: Duration,
    /// From when after the first connection, and for how long.
    freeze: Option<(Duration, Duration)>,
}

impl Server {
    /// When a request is answered that comes at a time since the first connection.
    fn answers_at(self, came: Duration) -> Duration {
        let begun = match self.freeze {
            Some((from, length)) if (from..from + length).contains(&came) => from + length,
            _ => came,
        };
        begun + self.delay
    }

    fn start(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let first = Arc::new(OnceLock::new());
        thread::spawn(move || {
            // What it is late shall not look like the generator's doing.
            machine::prefer_this_thread().unwrap();
            for stream in listener.incoming().flatten() {
                let begun = *first.get_or_init(Instant::now);
                thread::spawn(move || self.serve(stream, begun));
            }
        });
        address
    }

    fn serve(self, mut stream: TcpStream, begun: Instant) {
        let mut request = [0; 1024];
        if stream.read(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let came = begun.elapsed();
        thread::sleep(self.answers_at(came).saturating_sub(begun.elapsed()));
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes());
    }
}

/// Requests at equal distances, each on a connection of its own.
fn schedule(count: u32, distance: Duration) -> Schedule {
    let work = Work { kind: Kind::Wait, micros: 0 };
    let request = |index| Request { due: distance * index, connection: None, work };
    Schedule { requests: (0..count).map(request).collect(), connections: 0 }
}

/// p50, p99 and the largest.
fn figures(distribution: &Distribution) -> [Duration; 3] {
    [0.5, 0.99, 1.0].map(|q| Duration::from_micros(distribution.quantile(q).unwrap()))
}

/// What the figures must be, from the delays alone.
fn expected(server: Server, schedule: &Schedule) -> [Duration; 3] {
    let mut latencies: Vec<Duration> =
        schedule.requests.iter().map(|r| server.answers_at(r.due) - r.due).collect();
    latencies.sort();
    let at = |per_cent: usize| latencies[(latencies.len() * per_cent).div_ceil(100) - 1];
    [at(50), at(99), at(100)]
}

/// As the generator saw it, or why it says that it was not on time.
fn measured(server: Server, schedule: &Schedule) -> Result<[Duration; 3], String> {
    let load = Load::start(server.start(), schedule.clone()).unwrap();
    let outcomes = load.outcomes.blocking_recv().unwrap().unwrap();
    assert!(outcomes.requests.iter().all(|outcome| outcome.answer == Ok(None)), "{outcomes:?}");
    match objection(&outcomes.requests) {
        Some(objection) => Err(objection),
        None => Ok(figures(&measure(&outcomes, 0, |_| None).unwrap().latency)),
    }
}

/// Enough for one to fall into a quiet moment.
const ATTEMPTS: usize = 100;

/// Other processes of this machine may hold server or generator up: then it is measured again. A
/// generator that errs by itself errs each time.
fn assert_right(server: Server, count: u32, distance: Duration) {
    let schedule = schedule(count, distance);
    let expected = expected(server, &schedule);
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let figures = measured(server, &schedule);
        let right = figures.as_ref().is_ok_and(|figures| {
            figures.iter().zip(expected).all(|(&figure, expected)| {
                let tolerance = Duration::from_millis(1) + expected / 50;
                figure.abs_diff(expected) <= tolerance
            })
        });
        seen.push(figures);
        if right {
            return;
        }
    }
    panic!("p50, p99 and maximum must be {expected:?}; measured were {seen:?}");
}

#[test]
fn a_known_delay_is_measured_right_and_so_is_a_server_that_stands_still() {
    Host::with(|_| {
        // As a comparison does: how fast this machine wakes is not the question.
        let _awake = IdleInhibitor::keep().unwrap();
        for delay in [0, 5, 50].map(Duration::from_millis) {
            assert_right(Server { delay, freeze: None }, 150, Duration::from_millis(2));
        }
        // 100 requests come meanwhile. A generator that waited for answers would send one, and see
        // one slow request in 400.
        let freeze = Some((Duration::from_millis(700), Duration::from_millis(500)));
        let server = Server { delay: Duration::from_millis(5), freeze };
        assert_right(server, 400, Duration::from_millis(5));
    });
}
