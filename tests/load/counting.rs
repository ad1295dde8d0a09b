//! The tracker: which slot each connection counts for, and from when to when.

use std::{
    fs,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use balancer::{
    group::Protocol,
    policy::Policy,
    steering::{Steering, Store},
    tracking::Reconciler,
    tuning::{Load, Tuning},
};
use harness::{Host, TestGroup, running::wait_until};
use socket2::SockRef;

fn least(host: &Host, weights: &[u16]) -> TestGroup {
    TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, weights)
}

/// Ends a connection by a reset.
fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

#[test]
fn a_connection_counts_from_its_handshake_whether_it_is_accepted_or_not() {
    Host::with(|host| {
        let group = least(host, &[1, 1, 1]);
        let _clients = group.connect(10);
        let mut open = group.open();
        open.sort_unstable();
        assert_eq!(open, [3, 3, 4]);
        let _accepted = group.accept_all(0);
        assert_eq!(group.open().iter().sum::<u64>(), 10);
    });
}

#[test]
fn a_connection_counts_until_its_worker_closes_it() {
    Host::with(|host| {
        let group = least(host, &[1]);
        let clients = group.connect(6);
        let mut accepted = group.accept_all(0);
        for client in &clients[..3] {
            client.shutdown(Shutdown::Both).unwrap();
        }
        assert_eq!(group.open(), [6], "what the client has closed is still the worker's to close");
        drop(accepted.split_off(3));
        assert_eq!(group.open(), [3]);
        accepted.pop().unwrap().shutdown(Shutdown::Write).unwrap();
        assert_eq!(group.open(), [2]);
    });
}

#[test]
fn a_connection_that_is_reset_counts_no_more_in_the_queue_or_out_of_it() {
    Host::with(|host| {
        let group = least(host, &[1]);
        let mut clients = group.connect(4);
        let _accepted = group.accept_all(0);
        reset(clients.pop().unwrap());
        assert_eq!(group.open(), [3]);
        clients.extend(group.connect(1));
        assert_eq!(group.open(), [4]);
        reset(clients.pop().unwrap());
        assert_eq!(group.open(), [3], "a reset takes what waits out of the count too");
    });
}

#[test]
fn what_another_listener_of_this_machine_serves_counts_for_nobody() {
    Host::with(|host| {
        let group = least(host, &[1]);
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        let accepted = other.accept().unwrap();
        assert_eq!(group.open(), [0]);
        drop((client, accepted, other));
        assert_eq!(group.open(), [0]);
    });
}

#[test]
fn connections_that_migrate_count_for_whose_queue_they_come_into() {
    Host::with(|host| {
        let mut group = least(host, &[1, 1, 1]);
        let clients = group.connect(30);
        let kept: Vec<_> = (0..3).map(|_| group.sockets[0].as_ref().unwrap().accept()).collect();
        assert_eq!(group.open(), [10, 10, 10]);
        group.sockets[0] = None;
        let open = group.open();
        assert_eq!(open[0], 3, "those that were accepted stay with who accepted them: {open:?}");
        assert_eq!(open.iter().sum::<u64>(), 30);
        assert!(open[1].abs_diff(open[2]) <= 1, "{open:?}");
        let accepted = (group.accept_all(1), group.accept_all(2));
        assert_eq!((accepted.0.len() as u64, accepted.1.len() as u64), (open[1], open[2]));
        drop(accepted);
        assert_eq!(group.open(), [3, 0, 0]);
        drop(kept);
        assert_eq!(group.open(), [0, 0, 0]);
        drop(clients);
    });
}

#[test]
fn with_syn_cookies_connections_count_all_the_same() {
    Host::with(|host| {
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        let group = least(host, &[1, 1, 1, 1]);
        let clients = group.connect(40);
        assert_eq!(group.open().iter().sum::<u64>(), 40);
        let (least, most) =
            (*group.open().iter().min().unwrap(), *group.open().iter().max().unwrap());
        assert!(most - least <= 2, "{:?}", group.open());
        drop(clients);
        for slot in 0..4 {
            drop(group.accept_all(slot));
        }
        assert_eq!(group.open(), [0; 4]);
    });
}

#[test]
fn connections_that_were_there_before_count_from_the_switch_on() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--policy", "round-robin", "--name", "web"]);
        let mut clients: Vec<_> =
            (0..20).map(|_| TcpStream::connect(running.address()).unwrap()).collect();
        wait_until("all are accepted", || host.status()["members"][0]["selected"] == 10);
        let open = |index: usize| host.status()["members"][index]["open"].clone();
        assert!(open(0).is_null(), "nobody counts under round-robin");
        // A client that has said something was accepted; the others may still wait.
        for client in &mut clients {
            harness::client::say_hello(client);
        }
        host.succeed(&["policy", "least-connections"]);
        assert_eq!((open(0), open(1)), (10.into(), 10.into()));
        clients.truncate(5);
        wait_until("those that ended count no more", || {
            open(0).as_u64().unwrap() + open(1).as_u64().unwrap() == 5
        });
        // Back and again: nothing is counted twice.
        host.succeed(&["policy", "round-robin"]);
        host.succeed(&["policy", "two-choices"]);
        assert_eq!(open(0).as_u64().unwrap() + open(1).as_u64().unwrap(), 5);
        running.stop();
    });
}

#[test]
fn a_count_that_is_wrong_is_set_right_by_what_the_kernel_lists() {
    Host::with(|host| {
        let args = ["--workers", "2", "--policy", "least-connections", "--name", "web"];
        let running = host.run(&args);
        let mut clients: Vec<_> =
            (0..8).map(|_| TcpStream::connect(running.address()).unwrap()).collect();
        clients.iter_mut().for_each(harness::client::say_hello);
        let steering = Steering::open(&Store::at(host.bpffs()), "web").unwrap();
        let mut reconciler = Reconciler::default();
        let open = || [0, 1].map(|slot| steering.open_connections(slot));
        for wrong in [3, -2] {
            steering.correct_open_connections(1, wrong);
            assert_eq!(open(), [4, 4u64.checked_add_signed(wrong).unwrap()]);
            assert_eq!(reconciler.look(&steering).unwrap(), [], "once may be chance");
            assert_eq!(reconciler.look(&steering).unwrap(), [(1, -wrong)]);
            assert_eq!(open(), [4, 4]);
            assert_eq!(reconciler.look(&steering).unwrap(), []);
        }
        running.stop();
    });
}

#[test]
fn what_workers_report_needs_no_counting() {
    Host::with(|host| {
        let tuning = Tuning { load: Load::Reported, ..Tuning::default() };
        let group =
            TestGroup::tuned(host, Protocol::Tcp, Policy::LeastConnections, tuning, &[1, 1]);
        assert_eq!(group.snapshot().members[0].open, None);
        assert!(!host.pins("test").join("SLOT_OF").exists());
    });
}

#[test]
fn nothing_counts_any_more_once_another_policy_is_in_force() {
    Host::with(|host| {
        let mut group = least(host, &[1, 1]);
        let pins = host.pins("test");
        assert!(pins.join("tracker").exists() && pins.join("SLOT_OF").exists());
        group.steering.set_policy(Policy::RoundRobin, Tuning::default()).unwrap();
        assert!(!pins.join("tracker").exists() && !pins.join("SLOT_OF").exists());
        let _clients = group.connect(4);
        group.steering.set_policy(Policy::LeastConnections, Tuning::default()).unwrap();
        assert_eq!(group.open(), [0, 0], "counting begins with none");
    });
}
