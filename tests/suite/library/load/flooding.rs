//! A flood of SYNs whose senders never answer: all who do are served, by every policy, and what is kept
//! of the others has its bounds.

use std::fs;

use aya::maps::{HashMap, Map, MapData};
use balancer_common::{maps::MOVED, record::Tag};
use balancer_steering::{group::Protocol, policy::Policy};
use harness::{
    Host, TestGroup,
    client::{by_slot, requests},
    running::{try_until, wait_until},
    sockets::Flood,
    there,
};

/// Handshakes under way that a listener keeps; from then on it sends SYN cookies.
const BACKLOG: u64 = 256;

/// Choices under way that a count allows for beyond those.
const ALLOWANCE: u64 = 256;

fn prepare() -> Flood {
    let set = |name: &str, value: &str| fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
    set("core/somaxconn", &BACKLOG.to_string());
    // One retransmission, so that the kernel gives up after three seconds.
    set("ipv4/tcp_synack_retries", "1");
    Flood::new()
}

const POLICIES: [&[&str]; 10] = [
    &["kernel"],
    &["hash"],
    &["round-robin"],
    &["weighted"],
    &["random"],
    &["sticky"],
    &["cpu"],
    &["two-choices"],
    &["shortest-queue"],
    &["least-connections", "--avoid-stalled", "50ms"],
];

#[test]
fn under_every_policy_a_flood_of_syns_keeps_no_client_from_being_served() {
    if !there("nft") {
        return;
    }
    Host::with(|host| {
        let mut flood = prepare();
        let running = host.run(&["--workers", "4"]);
        for policy in POLICIES {
            host.succeed(&[&["policy"], policy].concat());
            for _ in 0..40 {
                flood.send(running.address(), 50);
                requests(running.address(), 1);
            }
            let after = requests(running.address(), 40);
            assert!(after.iter().all(|answer| answer.policy == policy[0]), "{after:?}");
        }
        assert!(cookies_sent() > 0, "that was no flood");
        let status = host.status();
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        // And when it is over, all is as before.
        wait_until("the kernel has given up", || half_open() == 0);
        host.succeed(&["policy", "round-robin"]);
        assert_eq!(
            by_slot(&requests(running.address(), 40)).into_values().collect::<Vec<_>>(),
            [10; 4]
        );
        running.stop();
    });
}

#[test]
fn a_flood_of_syns_fills_no_count_and_no_map() {
    if !there("nft") {
        return;
    }
    Host::with(|host| {
        for policy in [Policy::LeastConnections, Policy::TwoChoices] {
            let mut flood = prepare();
            let group = TestGroup::new(host, Protocol::Tcp, policy, &[1; 4]);
            let counts = || [0, 1, 2, 3].map(|slot| group.steering.counted_connections(slot));
            let sockets_before = sockets();
            let (mut clients, mut accepted) = (Vec::new(), Vec::new());
            for _ in 0..20 {
                flood.send(group.address, 1000);
                for open in counts() {
                    let most = clients.len() as u64 + BACKLOG + ALLOWANCE + 1;
                    assert!(open <= most, "{policy:?}: {:?}", counts());
                }
                clients.extend(group.connect(4));
                for slot in 0..4 {
                    accepted.extend(group.accept_all(slot));
                }
            }
            assert_eq!(accepted.len(), clients.len(), "{policy:?}");
            assert_eq!(group.open().iter().sum::<u64>(), clients.len() as u64);
            // Who has sent a SYN is no socket yet, so nothing is kept with it.
            assert_eq!(sockets() - sockets_before, 2 * clients.len());
            let moved = MapData::from_pin(host.shared_pins().join(MOVED)).unwrap();
            let moved: HashMap<_, u64, Tag> = Map::HashMap(moved).try_into().unwrap();
            assert_eq!(moved.keys().count(), 0);
            wait_until("the kernel has given up", || half_open() == 0);
            // A count is set right by a choice that nobody was chosen for right before.
            wait_until("nobody is on the way any more", || {
                clients.extend(group.connect(1));
                counts() == group.open()[..]
            });
            clients.extend(group.connect(16));
            let mean = clients.len() as u64 / 4;
            let uneven = group.open().iter().map(|open| open.abs_diff(mean)).max().unwrap();
            assert!(uneven <= if policy == Policy::TwoChoices { 4 } else { 1 }, "{:?}", counts());
            drop((clients, accepted));
            let mut last = [0; 4];
            let nothing = try_until(|| {
                // The last of a handshake may come after its client has gone.
                (0..4).for_each(|slot| drop(group.accept_all(slot)));
                last = counts();
                last == [0; 4]
            });
            assert!(
                nothing,
                "{policy:?}: {last:?} open, {} sockets, {sockets_before} before",
                sockets()
            );
            group.steering.detach(&balancer_steering::steering::Store::at(host.bpffs())).unwrap();
            harness::nft("delete table ip flood");
        }
    });
}

/// Handshakes under way in this network namespace.
fn half_open() -> usize {
    let sockets = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    sockets.lines().filter(|line| line.split_whitespace().nth(3) == Some("03")).count()
}

/// TCP sockets in this network namespace; a handshake under way is none.
fn sockets() -> usize {
    let sockets = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
    let tcp = sockets.lines().find_map(|line| line.strip_prefix("TCP: inuse ")).unwrap();
    tcp.split_whitespace().next().unwrap().parse().unwrap()
}

/// SYN cookies sent in this network namespace.
fn cookies_sent() -> u64 {
    let statistics = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = statistics.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let sent = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "SyncookiesSent");
    sent.unwrap().1.parse().unwrap()
}
