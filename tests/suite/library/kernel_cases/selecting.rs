//! Which slot is chosen for a new connection or a datagram, and what happens where none can be.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    time::Duration,
};

use aya::{
    maps::{Array, Map, MapData},
    programs::SkReuseport,
};
use balancer_common::{
    control::Control,
    maps::{CONTROL, TABLE},
    record::SlotState,
};
use balancer_steering::{
    group::Protocol,
    policy::Policy,
    steering::{Steering, Store},
};
use harness::{
    Host, TestGroup,
    client::connect_from,
    group::PATIENT,
    running::try_until,
    sockets::{tcp, udp},
};
use socket2::{SockRef, Socket, Type};

const ADDRESSES: [&str; 4] = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"];
const TCP: &[Protocol] = &[Protocol::Tcp];
const UDP: &[Protocol] = &[Protocol::Udp];
const BOTH: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];

/// A group with so many slots at each kind of address, each on a host of its own.
fn everywhere<const SLOTS: usize>(
    protocols: &[Protocol],
    policy: Policy,
    test: fn(&Host, TestGroup),
) {
    for &protocol in protocols {
        for address in ADDRESSES {
            // Shown if it fails.
            println!("{protocol:?} at {address}");
            Host::with(move |host| {
                let (address, options) = (address.parse().unwrap(), PATIENT);
                test(host, TestGroup::bound(host, protocol, address, policy, options, &[1; SLOTS]));
            });
        }
    }
}

fn is_udp(group: &TestGroup) -> bool {
    group.sockets[0].as_ref().unwrap().r#type().unwrap() == Type::DGRAM
}

/// Sends so many messages, each over a connection or from a port of its own, and collects what came to
/// each slot. Those ports are free again afterwards.
fn send(group: &TestGroup, messages: &[String]) -> Vec<Vec<String>> {
    let clients: Vec<_> = (20_000..).zip(messages).map(|(p, m)| say(group, p, m)).collect();
    let mut heard = vec![Vec::new(); group.sockets.iter().flatten().count()];
    // Where a kernel thread delivers, that is a little later.
    try_until(|| {
        for (heard, socket) in heard.iter_mut().zip(group.sockets.iter().flatten()) {
            heard.extend(std::iter::from_fn(|| hear(group, socket)));
        }
        heard.iter().map(Vec::len).sum::<usize>() == messages.len()
    });
    drop(clients);
    heard
}

/// The next message that waits at a socket.
fn hear(group: &TestGroup, socket: &Socket) -> Option<String> {
    let mut buffer = [0; 16];
    let length = if is_udp(group) {
        UdpSocket::from(socket.try_clone().unwrap()).recv(&mut buffer).ok()?
    } else {
        TcpStream::from(socket.accept().ok()?.0).read(&mut buffer).unwrap()
    };
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whoever sent a message, to be kept until it was read.
enum Client {
    Tcp(TcpStream),
    Udp(#[expect(dead_code, reason = "its port shall stay its own")] UdpSocket),
}

impl Drop for Client {
    /// By a reset, after which its port is free at once.
    fn drop(&mut self) {
        if let Self::Tcp(stream) = self {
            SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

fn say(group: &TestGroup, port: u16, message: &str) -> Client {
    let source = match group.address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    };
    if is_udp(group) {
        let socket = UdpSocket::bind(source).unwrap();
        socket.send_to(message.as_bytes(), group.address).unwrap();
        return Client::Udp(socket);
    }
    let mut stream = connect_from(source, group.address).unwrap();
    stream.write_all(message.as_bytes()).unwrap();
    Client::Tcp(stream)
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// Choices left to the kernel, and errors.
fn misses(group: &TestGroup) -> (u64, u64) {
    let snapshot = group.snapshot();
    (snapshot.fallback, snapshot.errors)
}

/// How many in all; each message came to somebody, once.
fn all_of(heard: &[Vec<String>]) -> usize {
    let mut all = heard.concat();
    all.sort_unstable();
    all.dedup();
    all.len()
}

#[test]
fn each_of_32_slots_is_chosen_when_it_is_drawn() {
    everywhere::<32>(BOTH, Policy::RoundRobin, |_, group| {
        let heard = send(&group, &numbers(64));
        for (slot, heard) in heard.iter().enumerate() {
            assert_eq!(heard, &[slot.to_string(), (slot + 32).to_string()]);
        }
        assert_eq!((group.selected(), misses(&group)), (vec![2; 32], (0, 0)));
    });
}

#[test]
fn a_datagram_without_a_word_is_steered_too() {
    everywhere::<2>(UDP, Policy::RoundRobin, |_, group| {
        let heard = send(&group, &vec![String::new(); 4]);
        assert_eq!((heard[0].len(), heard[1].len()), (2, 2));
        assert_eq!((group.selected(), misses(&group)), (vec![2, 2], (0, 0)));
    });
}

#[test]
fn a_table_without_anybody_leaves_the_choice_to_the_kernel() {
    everywhere::<4>(BOTH, Policy::RoundRobin, |_, mut group| {
        for slot in 0..4 {
            group.steering.set_state(slot, SlotState::Draining).unwrap();
        }
        group.steering.publish().unwrap();
        assert_eq!(all_of(&send(&group, &numbers(20))), 20);
        assert_eq!((group.selected(), misses(&group)), (vec![0; 4], (20, 0)));
    });
}

#[test]
fn a_table_of_slots_that_are_none_leaves_the_choice_to_the_kernel() {
    everywhere::<4>(BOTH, Policy::RoundRobin, |host, group| {
        let pinned = |name| Map::Array(MapData::from_pin(host.pins("test").join(name)).unwrap());
        let control: Array<_, u64> = pinned(CONTROL).try_into().unwrap();
        let mut table: Array<_, u64> = pinned(TABLE).try_into().unwrap();
        let half = Control::unpack(control.get(&0, 0).unwrap()).half;
        for word in [half.sequence_word(0), half.member_word(0)] {
            table.set(word, u64::MAX, 0).unwrap();
        }
        assert_eq!(all_of(&send(&group, &numbers(20))), 20);
        assert_eq!((group.selected(), misses(&group)), (vec![0; 4], (20, 0)));
    });
}

#[test]
fn sockets_of_other_groups_are_passed_over_and_counted_as_errors() {
    everywhere::<1>(BOTH, Policy::RoundRobin, |_, mut group| {
        let (other_family, udp_too) = match group.address {
            SocketAddr::V4(_) => ("[::1]:9001", "127.0.0.1:9002"),
            SocketAddr::V6(_) => ("127.0.0.1:9001", "[::1]:9002"),
        };
        let mut open: [fn(&str) -> Socket; 2] = [tcp, udp];
        if is_udp(&group) {
            open.reverse();
        }
        let [ours, theirs] = open;
        let same = udp_too.replace("9002", "9003");
        // The kernel has a reason of its own for each: EAFNOSUPPORT, EPROTOTYPE, EBADFD.
        let strangers = [ours(other_family), theirs(udp_too), ours(&same)];
        for stranger in &strangers {
            stranger.set_nonblocking(true).unwrap();
            group.seat(stranger);
        }
        assert_eq!(all_of(&send(&group, &numbers(10))), 10);
        // Between two turns of slot 0, each of the three is tried.
        assert_eq!((group.selected(), misses(&group)), (vec![10, 0, 0, 0], (0, 27)));
    });
}

#[test]
fn with_syn_cookies_the_ack_decides_and_has_a_turn_of_its_own() {
    everywhere::<2>(TCP, Policy::RoundRobin, |_, group| {
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        let [even, odd] =
            [0, 1].map(|first| numbers(10).into_iter().skip(first).step_by(2).collect::<Vec<_>>());
        assert_eq!(send(&group, &numbers(10)), [even, odd]);
        // Of each connection, the SYN and the ACK.
        assert_eq!((group.selected(), misses(&group)), (vec![10, 10], (0, 0)));
    });
}

#[test]
fn once_detached_no_program_runs_and_the_kernels_hash_is_back() {
    everywhere::<4>(BOTH, Policy::Kernel, |host, mut group| {
        let by_hash = send(&group, &numbers(40));
        assert!(by_hash.iter().all(|heard| !heard.is_empty()), "{by_hash:?}");
        group.steering.set_policy(Policy::RoundRobin, PATIENT).unwrap();
        assert_ne!(send(&group, &numbers(40)), by_hash);
        assert_eq!(group.selected(), [10; 4]);

        let store = Store::at(host.bpffs());
        let pins_are_gone = Steering::open(&store, "test").unwrap();
        std::mem::replace(&mut group.steering, pins_are_gone).detach(&store).unwrap();
        assert_eq!(send(&group, &numbers(40)), by_hash);
        assert_eq!((group.selected(), misses(&group)), (vec![10; 4], (0, 0)));
        let nothing_left = SkReuseport::detach(group.sockets[1].as_ref().unwrap().as_fd());
        assert!(nothing_left.is_err(), "something was attached still");
    });
}
