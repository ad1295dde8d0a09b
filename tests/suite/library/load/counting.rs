//! Which slot each connection counts for, and from when to when.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd as _,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use balancer_steering::{
    group::Protocol, metric::Metric, options::PolicyOptions, policy::Policy, weight::Weight,
};
use harness::{
    Host, TestGroup,
    group::PATIENT,
    running::{Running, wait_until},
};
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

/// What members have open, by slot.
fn open(host: &Host) -> Vec<u64> {
    let status = host.status();
    let members = status["members"].as_array().unwrap().iter();
    members.map(|member| member["open"].as_u64().unwrap()).collect()
}

#[test]
fn open_connections_are_counted_under_every_policy_and_a_switch_finds_them_so() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--policy", "kernel", "--name", "web"]);
        let mut clients: Vec<_> =
            (0..20).map(|_| TcpStream::connect(running.address()).unwrap()).collect();
        for policy in [
            "hash",
            "round-robin",
            "weighted",
            "random",
            "sticky",
            "cpu",
            "shortest-queue",
            "least-connections",
            "two-choices",
        ] {
            host.succeed(&["policy", policy]);
            assert_eq!(open(host).iter().sum::<u64>(), clients.len() as u64, "{policy}");
            clients.extend((0..4).map(|_| TcpStream::connect(running.address()).unwrap()));
            assert_eq!(open(host).iter().sum::<u64>(), clients.len() as u64, "{policy}");
        }
        clients.truncate(5);
        wait_until("those that ended count no more", || open(host).iter().sum::<u64>() == 5);
        host.succeed(&["policy", "kernel"]);
        clients.clear();
        wait_until("the last one has ended", || open(host) == [0, 0]);
        running.stop();
    });
}

#[test]
fn connections_that_were_open_before_attach_count_until_they_are_closed() {
    for address in ["127.0.0.1:8000", "[::1]:8000"] {
        Host::with_python(move |host| {
            let mut server = KeepingServer::start(address);
            let mut clients: Vec<_> =
                (0..7).map(|_| TcpStream::connect(address).unwrap()).collect();
            server.has_accepted(7);
            host.succeed(&["attach", address, "--once"]);
            assert_eq!(open(host), [7]);
            clients.extend((0..3).map(|_| TcpStream::connect(address).unwrap()));
            assert_eq!(open(host), [10]);
            clients.truncate(4);
            wait_until("those that ended count no more", || open(host) == [4]);
            clients.clear();
            wait_until("all have ended", || open(host) == [0]);
            assert_eq!(closings(host), 1, "--once has nobody who looks after it");
            host.succeed(&["detach"]);
            assert!(host.is_clean());
        });
    }
}

#[test]
fn once_no_connection_of_before_is_open_closings_are_not_watched_any_more() {
    Host::with_python(|host| {
        let mut server = KeepingServer::start("127.0.0.1:8000");
        let client = TcpStream::connect("127.0.0.1:8000").unwrap();
        server.has_accepted(1);
        let running = host.attach(&[":8000"]);
        assert_eq!((open(host), closings(host)), (vec![1], 1));
        drop(client);
        wait_until("nothing is left to watch", || closings(host) == 0);
        assert_eq!(open(host), [0]);
        running.stop();
    });
}

/// Links that watch connections of before.
fn closings(host: &Host) -> usize {
    let pins = fs::read_dir(host.shared_pins()).unwrap().flatten();
    pins.filter(|pin| pin.file_name().to_string_lossy().starts_with("bal_release")).count()
}

/// Arguments: address, port. Says when it listens, and when it has accepted one.
const SCRIPT: &str = "\
import socket, sys, threading
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
server = socket.socket(family)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen(64)
print('listens', flush=True)
def keep(connection):
    while connection.recv(64):
        pass
    connection.close()
while True:
    threading.Thread(target=keep, args=(server.accept()[0],), daemon=True).start()
    print('accepted', flush=True)
";

/// A process that keeps connections until their clients close them.
struct KeepingServer {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl KeepingServer {
    fn start(address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut process = Command::new("python3")
            .args(["-c", SCRIPT, &ip, &port])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut server = Self { process, said };
        assert_eq!(server.said.next().unwrap().unwrap(), "listens");
        server
    }

    fn has_accepted(&mut self, count: usize) {
        (0..count).for_each(|_| assert_eq!(self.said.next().unwrap().unwrap(), "accepted"));
    }
}

impl Drop for KeepingServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_vacated_slot_begins_at_none_and_late_ends_of_its_earlier_tenant_are_ignored() {
    Host::with(|host| {
        let mut group = least(host, &[1, 1]);
        let clients = group.connect(8);
        let accepted = group.accept_all(0);
        assert_eq!((accepted.len(), group.open()), (4, vec![4, 4]));
        // The listener goes, what it has accepted goes on: it was handed to another process.
        group.sockets[0] = None;
        group.steering.vacate(0).unwrap();
        group.steering.publish().unwrap();
        // One comes and goes so often that no slot is left that was never used.
        let socket = harness::sockets::tcp(&group.address.to_string());
        let slot = loop {
            let slot = group.steering.seat(socket.as_fd(), Weight::ONE).unwrap();
            if slot == 0 {
                break slot;
            }
            group.steering.vacate(slot).unwrap();
        };
        assert_eq!(group.steering.open_connections(slot), 0);
        drop(accepted);
        assert_eq!(group.steering.open_connections(0), 0, "that was another tenant's");
        drop(clients);
    });
}

#[test]
fn what_workers_report_is_compared_and_what_they_have_open_is_counted_beside_it() {
    Host::with(|host| {
        let options = PolicyOptions { load: Metric::Reported, ..PATIENT };
        let group =
            TestGroup::spec(host, Protocol::Tcp, Policy::LeastConnections, options, &[1, 1]);
        let _clients = group.connect(4);
        assert_eq!(group.open().iter().sum::<u64>(), 4);
    });
}

#[test]
fn without_counting_nothing_is_shown_as_open_and_what_needs_it_is_refused() {
    Host::with(|host| {
        let args = ["run", "--workers", "1", "--listen", "127.0.0.1:0", "--no-count"];
        for policy in ["least-connections", "two-choices"] {
            let refused = [&args[..], &["--policy", policy]].concat();
            host.refuse(1, &refused, &[policy, "not counted", "with counting"]);
        }
        let running = Running::start(host.balancer(&args));
        let _client = TcpStream::connect(running.address()).unwrap();
        let status = host.status();
        assert!(status["members"][0]["open"].is_null() && status["counted"] == false);
        let pins = fs::read_dir(host.shared_pins()).unwrap().flatten();
        assert!(pins.map(|pin| pin.file_name()).all(|name| name.to_str() != Some("bal_count")));
        for policy in ["least-connections", "two-choices"] {
            let message = host.fail(1, &["policy", policy]);
            assert!(
                message.contains("not counted") && message.contains("with counting"),
                "{message}"
            );
        }
        host.succeed(&["policy", "shortest-queue"]);
        running.stop();
        assert!(host.is_clean());
    });
}
