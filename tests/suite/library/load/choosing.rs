//! Which slot is chosen by load.

use std::{
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
};

use balancer_common::record::SlotState;
use balancer_steering::{group::Protocol, metric::Metric, options::PolicyOptions, policy::Policy};
use harness::{
    Host, TestGroup, group::PATIENT, nft, running::wait_until, sockets::send_segment, there,
};
use socket2::{Domain, Socket, Type};

fn spread(counts: &[u64]) -> u64 {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

#[test]
fn sixty_four_connections_of_eight_clients_at_once_are_even_at_every_quiet_moment() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[1; 4]);
        // Each client has a share of them; which it closes is another's share of the slots each time.
        let mut clients: Vec<Vec<TcpStream>> = (0..8).map(|_| Vec::new()).collect();
        let mut accepted = Vec::new();
        for round in 0..60 {
            thread::scope(|scope| {
                for client in &mut clients {
                    scope.spawn(|| {
                        let missing = 8 - client.len();
                        client.extend(group.connect(missing));
                    });
                }
            });
            assert_eq!(group.open().iter().sum::<u64>(), 64);
            assert!(
                spread(&group.open()) <= 1,
                "round {round}: {:?} {:?}",
                group.open(),
                balancer_words(&group)
            );
            for slot in 0..4 {
                accepted.extend(group.accept_all(slot));
            }
            let kept = (round * 5 + 3) % 8;
            thread::scope(|scope| {
                for (index, client) in clients.iter_mut().enumerate() {
                    scope.spawn(move || client.drain(..(kept + index) % 8).for_each(drop));
                }
            });
            let left: usize = clients.iter().map(Vec::len).sum();
            // The worker closes what its clients have closed.
            wait_until("all that clients closed are closed", || {
                accepted.retain(|connection: &Socket| !has_ended(connection));
                accepted.len() == left
            });
            assert_eq!(group.open().iter().sum::<u64>(), left as u64);
        }
    });
}

/// Whether the other side has closed.
fn has_ended(connection: &Socket) -> bool {
    connection.set_nonblocking(true).unwrap();
    matches!(connection.recv(&mut [std::mem::MaybeUninit::uninit()]), Ok(0))
}

#[test]
fn a_thousand_connections_on_their_way_at_once_are_spread_evenly() {
    if !there("nft") {
        return;
    }
    Host::with(|host| {
        for policy in [Policy::LeastConnections, Policy::ShortestQueue] {
            let group = TestGroup::new(host, Protocol::Tcp, policy, &[1; 4]);
            hold_handshakes(&group);
            let clients = begin(group.address, 1000);
            wait_until("all have been chosen for", || group.selected().iter().sum::<u64>() >= 1000);
            let selected = group.selected();
            assert!(selected.iter().all(|&n| n.abs_diff(250) <= 12), "{policy:?}: {selected:?}");
            if policy == Policy::LeastConnections {
                assert_eq!(group.open(), [0; 4], "none is open yet");
            }
            nft("delete table inet hold");
            drop(clients);
            group.steering.detach(&balancer_steering::steering::Store::at(host.bpffs())).unwrap();
        }
    });
}

#[test]
fn handshakes_under_way_are_part_of_a_queue() {
    if !there("nft") {
        return;
    }
    Host::with(|host| {
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::ShortestQueue, &[1, 1]);
        hold_handshakes(&group);
        let mut live = |slot, state| {
            group.steering.set_state(slot, state).unwrap();
            group.steering.publish().unwrap();
        };
        live(1, SlotState::Draining);
        let _first = begin(group.address, 10);
        live(1, SlotState::Live);
        let _then = begin(group.address, 10);
        wait_until("all have been chosen for", || group.selected().iter().sum::<u64>() >= 20);
        assert_eq!(group.selected(), [10, 10]);
    });
}

/// The answer to a SYN does not come through, so no handshake comes to its end.
fn hold_handshakes(group: &TestGroup) {
    nft(&format!(
        "table inet hold {{ chain out {{ type filter hook output priority 0; \
         tcp sport {} tcp flags & (syn | ack) == (syn | ack) drop; }}; }}",
        group.address.port()
    ));
}

/// Sends so many SYNs, and waits for nothing.
fn begin(address: SocketAddr, count: usize) -> Vec<Socket> {
    let begin = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address.into());
        socket
    };
    (0..count).map(begin).collect()
}

#[test]
fn handshakes_that_never_end_are_forgotten_when_the_kernel_forgets_them() {
    if !there("nft") {
        return;
    }
    Host::with(|host| {
        // One retransmission, so that the kernel gives up after three seconds.
        std::fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "1").unwrap();
        let group = TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[1, 1]);
        // All that comes next goes to slot 1, which seems to have the less to do.
        let _busy: Vec<_> = (0..2).flat_map(|_| group.connect(1)).collect();
        hold_handshakes(&group);
        drop(begin(group.address, 20));
        nft("delete table inet hold");
        let half_open = || {
            let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
            sockets.lines().filter(|line| line.split_whitespace().nth(3) == Some("03")).count()
        };
        wait_until("the kernel has given up", || half_open() == 0);
        // Whom to correct goes round: each choice looks at one member.
        let _more = group.connect(8);
        assert_eq!(group.selected().iter().sum::<u64>(), 30);
        assert!(spread(&group.open()) <= 1, "{:?} of {:?}", group.open(), group.selected());
        let words = balancer_words(&group);
        assert_eq!(words, group.open(), "nobody is on the way any more");
    });
}

#[test]
fn a_stray_ack_is_on_its_way_to_nobody() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[1, 1]);
        let _clients = group.connect(2);
        const ACK: u8 = 0x10;
        for _ in 0..5 {
            send_segment(group.address, ACK);
        }
        assert_eq!(balancer_words(&group), [1, 1]);
        // Nor does it make the program think that SYN cookies are in use, and claims idle.
        let clients = group.connect(8);
        assert_eq!(group.open(), [5, 5]);
        drop(clients);
    });
}

/// What counts for each slot: open, and on its way.
fn balancer_words(group: &TestGroup) -> Vec<u64> {
    (0..group.sockets.len())
        .map(|slot| group.steering.counted_connections(u32::try_from(slot).unwrap()))
        .collect()
}

#[test]
fn least_connections_keeps_to_the_weights() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[5, 3, 2]);
        let _clients = group.connect(100);
        assert_eq!(group.open(), [50, 30, 20]);
    });
}

#[test]
fn two_choices_are_more_even_than_one() {
    Host::with(|host| {
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::TwoChoices, &[1; 8]);
        let _clients = group.connect(400);
        let two = spread(&group.open());
        group.steering.set_policy(Policy::Random, PATIENT).unwrap();
        let before = group.selected();
        let _more = group.connect(400);
        let one: Vec<u64> = group.selected().iter().zip(before).map(|(a, b)| a - b).collect();
        // In theory, log log n against the root of the mean; one choice within 8 of 50 happens once
        // in a thousand times.
        assert!(two <= 6 && spread(&one) > two, "two choices {two}, one {one:?}");
    });
}

#[test]
fn two_choices_keep_to_the_weights() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::TwoChoices, &[3, 1]);
        let _clients = group.connect(400);
        let open = group.open();
        assert!(open[0].abs_diff(300) <= 8, "{open:?}");
    });
}

#[test]
fn the_shortest_queue_is_chosen_by_what_waits_now() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::ShortestQueue, &[1, 1, 1]);
        let _clients = group.connect(9);
        assert_eq!(group.selected(), [3, 3, 3]);
        let _accepted = group.accept_all(1);
        let _more = group.connect(3);
        assert_eq!(group.selected(), [3, 6, 3]);
    });
}

#[test]
fn of_udp_sockets_the_one_with_the_fewest_datagrams_is_chosen() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Udp, Policy::ShortestQueue, &[1, 1, 1]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let send = |count| {
            for _ in 0..count {
                client.send_to(b"x", group.address).unwrap();
            }
        };
        send(9);
        assert_eq!(group.selected(), [3, 3, 3]);
        let socket = group.sockets[2].as_ref().unwrap();
        while socket.recv(&mut [std::mem::MaybeUninit::uninit(); 8]).is_ok() {}
        send(3);
        assert_eq!(group.selected(), [3, 3, 6]);
    });
}

#[test]
fn who_reports_the_least_is_chosen_and_who_reports_all_there_is_never() {
    Host::with(|host| {
        let options = PolicyOptions { load: Metric::Reported, ..PolicyOptions::default() };
        let mut group =
            TestGroup::spec(host, Protocol::Tcp, Policy::LeastConnections, options, &[1, 1, 2]);
        let report = |loads: [u64; 3]| {
            for (slot, load) in (0..).zip(loads) {
                group.steering.report(slot, load).unwrap();
            }
        };
        report([10, 5, 20]);
        drop(group.connect(5));
        assert_eq!(group.selected(), [0, 5, 0]);
        report([10, 11, 19]);
        drop(group.connect(5));
        assert_eq!(group.selected(), [0, 5, 5], "19 of weight 2 is less than 10 of weight 1");
        report([u64::MAX, 7, u64::MAX]);
        group.sockets[1] = None;
        // Nobody is left who wants one: any that lives gets it.
        drop(group.connect(4));
        assert_eq!(group.snapshot().fallback, 0);
        assert_eq!(group.selected().iter().sum::<u64>(), 14);
    });
}

#[test]
fn a_draining_slot_is_not_chosen_though_it_has_the_least_to_do() {
    Host::with(|host| {
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[1, 1, 1]);
        group.steering.set_state(2, SlotState::Draining).unwrap();
        group.steering.publish().unwrap();
        let _clients = group.connect(20);
        assert_eq!(group.open(), [10, 10, 0]);
    });
}

#[test]
fn a_slot_whose_load_was_dead_is_chosen_again_once_somebody_sits_there() {
    Host::with(|host| {
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[1, 1]);
        group.sockets[1] = None;
        let _clients = group.connect(4);
        assert_eq!(group.open(), [4, 0]);
        let socket = balancer_steering::socket::bind(group.address).unwrap();
        balancer_steering::socket::listen(&socket, group.address).unwrap();
        let slot = group.seat(&socket);
        let _more = group.connect(4);
        assert_eq!(group.open()[slot], 4);
    });
}

#[test]
fn a_thousand_members_are_all_asked() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[1; 1024]);
        let _clients: Vec<_> = (0..16).flat_map(|_| group.connect(64)).collect();
        assert_eq!(group.open(), [1; 1024]);
    });
}
