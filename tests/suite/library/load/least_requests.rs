//! Choosing by requests: connections that idle count nothing.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use balancer_steering::{
    group::Protocol,
    metric::Metric,
    options::{PolicyOptions, Share},
    policy::Policy,
};
use harness::{Host, TestGroup, group::PATIENT, needs_kernel};

fn group(
    host: &Host,
    policy: Policy,
    max_share: Option<Share>,
    weights: &[u16],
) -> Option<TestGroup> {
    let options = PolicyOptions { load: Metric::Requests, max_share, ..PATIENT };
    needs_kernel(6, 3).then(|| TestGroup::spec(host, Protocol::Tcp, policy, options, weights))
}

/// A new connection, and the slot that it went to; both of its ends.
fn connect(group: &TestGroup) -> (usize, TcpStream, TcpStream) {
    let client = group.connect(1).remove(0);
    let accepted =
        (0..group.sockets.len()).find_map(|slot| Some((slot, group.accept_all(slot).pop()?)));
    let (slot, worker) = accepted.unwrap();
    worker.set_nonblocking(false).unwrap();
    (slot, client, worker.into())
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"some").unwrap();
    to.read_exact(&mut [0; 4]).unwrap();
}

/// Opens a connection whose first request is answered, so that it idles.
fn idle(group: &TestGroup) -> (usize, TcpStream, TcpStream) {
    let (slot, mut client, mut worker) = connect(group);
    pass(&mut client, &mut worker);
    pass(&mut worker, &mut client);
    (slot, client, worker)
}

#[test]
fn connections_go_where_the_fewest_requests_wait_however_many_idle_there() {
    Host::with(|host| {
        for policy in [Policy::LeastRequests, Policy::TwoChoices] {
            let Some(group) = group(host, policy, None, &[1, 1]) else { return };
            let (busy, mut client, mut worker) = connect(&group);
            client.write_all(b"some").unwrap();
            let kept: Vec<_> = (0..20).map(|_| idle(&group)).collect();
            assert!(kept.iter().all(|(slot, ..)| *slot != busy), "{policy:?}");
            // It is as free as the other now, and has the fewer connections, which is no matter.
            worker.read_exact(&mut [0; 4]).unwrap();
            pass(&mut worker, &mut client);
            let next: Vec<_> = (0..20).map(|_| idle(&group)).collect();
            let share = next.iter().filter(|(slot, ..)| *slot == busy).count();
            assert!((1..20).contains(&share), "{policy:?}: {share} of 20");
            drop((kept, next));
            group.steering.detach(&balancer_steering::steering::Store::at(host.bpffs())).unwrap();
        }
    });
}

#[test]
fn connections_that_nobody_has_read_from_count_as_requests() {
    Host::with(|host| {
        let Some(group) = group(host, Policy::LeastRequests, None, &[1, 3]) else { return };
        let clients = group.connect(40);
        assert_eq!(group.open(), [10, 30]);
        drop(clients);
    });
}

#[test]
fn a_worker_that_answers_at_once_gets_no_more_than_its_share() {
    Host::with(|host| {
        let share = "60%".parse().ok();
        let Some(group) = group(host, Policy::LeastRequests, share, &[1, 1]) else { return };
        let (busy, mut client, worker) = connect(&group);
        client.write_all(b"some").unwrap();
        for _ in 1..256 {
            drop(idle(&group));
        }
        let selected = group.selected();
        let most = selected[1 - busy];
        // Two windows of 128 choices, of which 60 % are 76.8.
        assert!(
            selected.iter().sum::<u64>() == 256 && (140..=2 * 77).contains(&most),
            "{selected:?}"
        );
        drop((client, worker));
    });
}

#[test]
fn the_tracker_is_there_while_a_group_goes_by_requests() {
    Host::with(|host| {
        let Some(mut group) = group(host, Policy::LeastRequests, None, &[1]) else { return };
        assert!(group.steering.is_tracking());
        group.steering.set_policy(Policy::LeastConnections, PATIENT).unwrap();
        assert!(!group.steering.is_tracking());
        let observe = PolicyOptions { observe: true, ..PATIENT };
        group.steering.set_policy(Policy::RoundRobin, observe).unwrap();
        assert!(group.steering.is_tracking());
    });
}
