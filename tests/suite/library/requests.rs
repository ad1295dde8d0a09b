//! What is seen of requests: which member's, how many are under way, and how long they took.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use balancer_steering::{
    group::Protocol,
    policy::Policy,
    requests::Requests,
    steering::{Observation, Store},
};
use harness::{Host, TestGroup, needs_kernel};
use socket2::Socket;

const REQUESTS: (u32, u32) = (6, 3);

/// A group of one member for each slot, observed; `None` where the kernel cannot.
fn observed(host: &Host, slots: usize) -> Option<(TestGroup, Observation)> {
    if !needs_kernel(REQUESTS.0, REQUESTS.1) {
        return None;
    }
    let group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &vec![1; slots]);
    let observation = Store::at(host.bpffs()).observe().unwrap();
    Some((group, observation))
}

fn requests(group: &TestGroup) -> Vec<Requests> {
    group.steering.requests().unwrap().unwrap()
}

/// Connections that owe an answer, and all that are busy.
fn busy(group: &TestGroup) -> Vec<(u64, u64)> {
    requests(group).iter().map(|requests| (requests.owing, requests.busy)).collect()
}

/// A connection: the client's end, and the worker's of the only member.
fn connection(group: &TestGroup) -> (TcpStream, TcpStream) {
    let client = group.connect(1).remove(0);
    let worker: Socket = group.accept_all(0).remove(0);
    worker.set_nonblocking(false).unwrap();
    (client, worker.into())
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"some").unwrap();
    to.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn a_connection_is_busy_from_its_handshake_to_its_first_answer_and_by_request_from_then_on() {
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 1) else { return };
        let (mut client, mut worker) = connection(&group);
        assert_eq!(busy(&group), [(0, 1)], "new");
        for _ in 0..3 {
            client.write_all(b"some").unwrap();
            assert_eq!(busy(&group), [(1, 1)], "it came");
            worker.read_exact(&mut [0; 4]).unwrap();
            assert_eq!(busy(&group), [(1, 1)], "it was read");
            exchange(&mut worker, &mut client);
            assert_eq!(busy(&group), [(0, 0)], "it was answered");
        }
        let [requests] = &requests(&group)[..] else { panic!() };
        let counts =
            [&requests.to_answer, &requests.to_read, &requests.to_first].map(|h| h.count());
        assert_eq!(counts, [3, 3, 1]);
    });
}

#[test]
fn times_are_those_that_the_worker_took() {
    const TO_READ: Duration = Duration::from_millis(20);
    const TO_ANSWER: Duration = Duration::from_millis(30);
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 1) else { return };
        let connected = Instant::now();
        let (mut client, mut worker) = connection(&group);
        let begun = Instant::now();
        client.write_all(b"some").unwrap();
        thread::sleep(TO_READ);
        worker.read_exact(&mut [0; 4]).unwrap();
        let read = begun.elapsed();
        thread::sleep(TO_ANSWER);
        worker.write_all(b"some").unwrap();
        let (answered, answered_first) = (begun.elapsed(), connected.elapsed());
        let [requests] = &requests(&group)[..] else { panic!() };
        // A bucket is 3.2 % wide.
        let is = |seen: Option<Duration>, least: Duration, most: Duration| {
            let seen = seen.unwrap();
            assert!(
                seen >= least.mul_f64(0.98) && seen <= most.mul_f64(1.02),
                "{seen:?}: {least:?}"
            );
        };
        is(requests.to_read.quantile(0.5), TO_READ, read);
        is(requests.to_answer.quantile(0.5), TO_READ + TO_ANSWER, answered);
        is(Some(requests.to_answer.sum()), TO_READ + TO_ANSWER, answered);
        is(Some(requests.to_first.sum()), TO_READ + TO_ANSWER, answered_first);
    });
}

#[test]
fn a_request_in_several_parts_is_one_and_so_is_its_answer() {
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 1) else { return };
        let (mut client, mut worker) = connection(&group);
        for _ in 0..3 {
            exchange(&mut client, &mut worker);
        }
        for _ in 0..3 {
            exchange(&mut worker, &mut client);
        }
        let [requests] = &requests(&group)[..] else { panic!() };
        assert_eq!((requests.answered(), requests.busy), (1, 0));
    });
}

#[test]
fn a_request_that_comes_before_the_last_is_answered_is_another() {
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 1) else { return };
        let (mut client, mut worker) = connection(&group);
        exchange(&mut client, &mut worker);
        client.write_all(b"some").unwrap();
        exchange(&mut worker, &mut client);
        assert_eq!(busy(&group), [(1, 1)]);
        worker.read_exact(&mut [0; 4]).unwrap();
        exchange(&mut worker, &mut client);
        let [requests] = &requests(&group)[..] else { panic!() };
        assert_eq!((requests.answered(), requests.busy), (2, 0));
    });
}

#[test]
fn a_worker_that_speaks_first_has_answered_its_client_and_no_request() {
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 1) else { return };
        let (mut client, mut worker) = connection(&group);
        exchange(&mut worker, &mut client);
        let [requests] = &requests(&group)[..] else { panic!() };
        assert_eq!((requests.answered(), requests.to_first.count(), requests.busy), (0, 1, 0));
    });
}

#[test]
fn a_connection_that_ends_owes_nothing_whatever_it_owed() {
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 1) else { return };
        let mut connections: Vec<_> = (0..4).map(|_| connection(&group)).collect();
        connections[1].0.write_all(b"some").unwrap();
        let (client, worker) = &mut connections[2];
        exchange(client, worker);
        let (client, worker) = &mut connections[3];
        exchange(client, worker);
        assert_eq!(busy(&group), [(3, 4)]);
        // Of one, only the worker's half is closed, and what it still reads changes nothing.
        let (mut client, mut worker) = connections.pop().unwrap();
        worker.shutdown(Shutdown::Write).unwrap();
        exchange(&mut client, &mut worker);
        assert_eq!(busy(&group), [(2, 3)]);
        drop(connections);
        assert_eq!(busy(&group), [(0, 0)]);
    });
}

#[test]
fn a_client_that_closes_its_half_is_owed_no_answer() {
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 1) else { return };
        let (mut client, mut worker) = connection(&group);
        exchange(&mut client, &mut worker);
        exchange(&mut worker, &mut client);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(worker.read(&mut [0; 4]).unwrap(), 0);
        assert_eq!(busy(&group), [(0, 0)]);
    });
}

#[test]
fn requests_count_for_the_member_whose_connection_it_is() {
    Host::with(|host| {
        let Some((group, _observation)) = observed(host, 2) else { return };
        let mut clients = group.connect(2);
        let mut accepted = [0, 1].map(|slot| TcpStream::from(group.accept_all(slot).remove(0)));
        for worker in &accepted {
            worker.set_nonblocking(false).unwrap();
        }
        clients[0].write_all(b"some").unwrap();
        clients[0].set_nonblocking(true).unwrap();
        let mut seen = busy(&group);
        seen.sort_unstable();
        assert_eq!(seen, [(0, 1), (1, 1)]);
        let owing = requests(&group).iter().position(|requests| requests.owing == 1).unwrap();
        accepted[owing].read_exact(&mut [0; 4]).unwrap();
        accepted[owing].write_all(b"some").unwrap();
        let answered: Vec<u64> = requests(&group).iter().map(Requests::answered).collect();
        assert_eq!((answered[owing], answered[1 - owing]), (1, 0));
    });
}

#[test]
fn nothing_is_tracked_without_an_observer_and_the_last_of_several_takes_the_tracker_off() {
    Host::with(|host| {
        let Some((group, first)) = observed(host, 1) else { return };
        let second = Store::at(host.bpffs()).observe().unwrap();
        drop(first);
        assert!(group.steering.requests().unwrap().is_some());
        drop(second);
        assert!(group.steering.requests().unwrap().is_none());
        assert_eq!(group.snapshot().members[0].busy, None);
    });
}

#[test]
fn what_a_connection_owed_to_an_earlier_tracker_is_no_matter_to_the_next() {
    Host::with(|host| {
        let Some((group, observation)) = observed(host, 1) else { return };
        let (mut client, mut worker) = connection(&group);
        let (mut other, mut its_worker) = connection(&group);
        exchange(&mut client, &mut worker);
        drop(observation);
        exchange(&mut worker, &mut client);
        let _observation = Store::at(host.bpffs()).observe().unwrap();
        assert_eq!(busy(&group), [(0, 0)]);
        exchange(&mut other, &mut its_worker);
        exchange(&mut client, &mut worker);
        assert_eq!(busy(&group), [(2, 2)]);
        drop((client, worker, other, its_worker));
        assert_eq!(busy(&group), [(0, 0)]);
    });
}

#[test]
fn the_requests_of_a_connection_that_migrates_are_those_of_its_new_worker() {
    Host::with(|host| {
        let Some((mut group, _observation)) = observed(host, 2) else { return };
        let mut clients = group.connect(2);
        clients.iter_mut().for_each(|client| client.write_all(b"some").unwrap());
        assert_eq!(busy(&group), [(1, 1), (1, 1)]);
        // Its worker ends without having accepted.
        group.sockets[0] = None;
        group.steering.vacate(0).unwrap();
        group.steering.publish().unwrap();
        let mut accepted = group.accept_all(1);
        assert_eq!(accepted.len(), 2);
        for worker in &mut accepted {
            worker.set_nonblocking(false).unwrap();
            worker.read_exact(&mut [0; 4]).unwrap();
        }
        assert_eq!(busy(&group), [(2, 2)]);
        for worker in &mut accepted {
            worker.write_all(b"some").unwrap();
        }
        let [requests] = &requests(&group)[..] else { panic!() };
        assert_eq!((requests.answered(), requests.busy), (2, 0));
        drop(accepted);
        assert_eq!(group.open(), [0]);
        assert_eq!(busy(&group), [(0, 0)]);
    });
}
