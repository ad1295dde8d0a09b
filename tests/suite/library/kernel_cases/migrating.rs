//! Where requests for a connection go whose listener closes, in each state that they can be in.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use balancer_common::{
    maps::MOVED,
    record::{SlotState, Tag},
};
use balancer_steering::{group::Protocol, policy::Policy};
use harness::{
    Host, TestGroup,
    group::PATIENT,
    nft,
    running::{PATIENCE, wait_until},
    sockets::tcp,
    there,
};
use socket2::{Domain, Socket, Type};

const MESSAGE: &[u8] = b"Hello";
const CLIENTS: usize = 25;
const CLOSING: usize = 4;
const TARGET: usize = CLOSING;

/// How far a request has got when its listener closes, and what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// A connection, and it waits to be accepted.
    Queued,
    /// It brought data with its SYN and waits to be accepted, though its ACK is not there.
    FastOpen,
    /// Its ACK does not come, so the kernel's timer finds that the listener is gone.
    TimedOut,
    /// Its ACK comes after the listener closed.
    Acknowledged,
    /// The same, when its client has already closed: the ACK comes with a FIN.
    Ended,
}

const REQUESTS: [Request; 5] =
    [Request::Queued, Request::FastOpen, Request::TimedOut, Request::Acknowledged, Request::Ended];

// linux/tcp.h, TFO_*: client, server, neither asks for a cookie, every listener.
const FAST_OPEN: &str = "1543";
const MSG_FASTOPEN: i32 = 0x2000_0000;

#[test]
fn over_ipv4_requests_move_to_whom_the_table_names_from_each_state() {
    for request in REQUESTS {
        moves("127.0.0.1:0", request, Policy::RoundRobin);
    }
}

#[test]
fn over_ipv6_requests_move_to_whom_the_table_names_from_each_state() {
    for request in REQUESTS {
        moves("[::1]:0", request, Policy::RoundRobin);
    }
}

#[test]
fn requests_that_move_count_for_who_accepts_them_from_each_state() {
    for request in REQUESTS {
        moves("127.0.0.1:0", request, Policy::LeastConnections);
    }
}

/// Requests come to four listeners, and then move to a fifth, though others would be there.
fn moves(address: &'static str, request: Request, policy: Policy) {
    let held = !matches!(request, Request::Queued);
    if held && !there("nft") {
        return;
    }
    // Shown if it fails.
    println!("{request:?} at {address} by {policy:?}");
    Host::with(move |host| {
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN).unwrap();
        let (address, options) = (address.parse().unwrap(), PATIENT);
        let mut group =
            TestGroup::bound(host, Protocol::Tcp, address, policy, options, &[1; CLOSING + 1]);
        set_states(&mut group, SlotState::Live, SlotState::Draining);
        if held {
            hold_acks(group.address);
        }
        let mut clients: Vec<Socket> = (0..CLIENTS).map(|_| ask(&group, request)).collect();
        let selected = group.selected();
        assert_eq!((selected[..CLOSING].iter().sum(), selected[TARGET]), (CLIENTS as u64, 0));

        set_states(&mut group, SlotState::Draining, SlotState::Live);
        group.sockets[..CLOSING].fill_with(|| None);
        let moved = |group: &TestGroup| -> Vec<u64> {
            group.snapshot().members.iter().map(|member| member.tally.migrated).collect()
        };
        let all = [0, 0, 0, 0, CLIENTS as u64];
        // A process that another test starts has a copy of all sockets for a moment.
        let when_closed = !matches!(request, Request::Acknowledged | Request::Ended);
        if when_closed {
            wait_until("all to move, by the kernel's timer at last", || moved(&group) == all);
        }
        if held {
            let_through();
        }
        if matches!(request, Request::Acknowledged | Request::FastOpen) {
            // Now, and not when TCP says it again.
            clients.iter_mut().for_each(|client| client.write_all(b"!").unwrap());
        }
        let mut accepted = Vec::new();
        wait_until("all that moved", || {
            accepted.extend(group.accept_all(TARGET));
            accepted.len() == CLIENTS
        });
        assert_eq!(moved(&group), all);
        let snapshot = group.snapshot();
        assert_eq!((snapshot.fallback, snapshot.errors), (0, 0));
        if policy == Policy::LeastConnections {
            wait_until("all to be open", || group.open().iter().sum::<u64>() == CLIENTS as u64);
            assert_eq!(group.open(), all);
        }
        for connection in accepted {
            assert!(was_said(connection, request), "its message is lost");
        }
        if policy == Policy::LeastConnections {
            wait_until("all to be counted off", || group.open() == [0; CLOSING + 1]);
        }
    });
}

#[test]
fn of_a_request_that_moved_and_was_reset_nothing_is_kept() {
    if !there("nft") {
        return;
    }
    Host::with(|host| {
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN).unwrap();
        let mut group =
            TestGroup::new(host, Protocol::Tcp, Policy::LeastConnections, &[1; CLOSING + 1]);
        set_states(&mut group, SlotState::Live, SlotState::Draining);
        hold_acks(group.address);
        let clients: Vec<Socket> = (0..CLIENTS).map(|_| ask(&group, Request::FastOpen)).collect();
        set_states(&mut group, SlotState::Draining, SlotState::Live);
        group.sockets[..CLOSING].fill_with(|| None);
        let map = MapData::from_pin(host.shared_pins().join(MOVED)).unwrap();
        let noted: HashMap<_, u64, Tag> = Map::HashMap(map).try_into().unwrap();
        wait_until("all to move", || noted.keys().count() == CLIENTS);
        let_through();
        for client in clients {
            client.set_linger(Some(Duration::ZERO)).unwrap();
        }
        wait_until("all to be forgotten", || noted.keys().count() == 0);
        assert_eq!(group.open(), [0; CLOSING + 1]);
    });
}

/// Of those that will close, and of who shall have it all.
fn set_states(group: &mut TestGroup, closing: SlotState, target: SlotState) {
    for slot in 0..=TARGET {
        let state = if slot == TARGET { target } else { closing };
        group.steering.set_state(u32::try_from(slot).unwrap(), state).unwrap();
    }
    group.steering.publish().unwrap();
}

fn ask(group: &TestGroup, request: Request) -> Socket {
    let address = group.address.into();
    let mut client = Socket::new(Domain::for_address(group.address), Type::STREAM, None).unwrap();
    client.set_tcp_nodelay(true).unwrap();
    if request == Request::FastOpen {
        client.send_to_with_flags(MESSAGE, &address, MSG_FASTOPEN).unwrap();
        return client;
    }
    // It is through for the client once the answer to its SYN is there.
    client.connect(&address).unwrap();
    match request {
        Request::Ended => client.shutdown(Shutdown::Write).unwrap(),
        _ => client.write_all(MESSAGE).unwrap(),
    }
    client
}

/// Whether a connection brings what its client said.
fn was_said(connection: Socket, request: Request) -> bool {
    let mut connection = TcpStream::from(connection);
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    if request == Request::Ended {
        return connection.read(&mut [0]).unwrap() == 0;
    }
    let mut said = [0; MESSAGE.len()];
    connection.read_exact(&mut said).unwrap();
    said == *MESSAGE
}

/// Of all that clients say, only their SYNs arrive.
fn hold_acks(listener: SocketAddr) {
    nft(&format!(
        "table inet hold {{ chain in {{ type filter hook input priority 0; \
         tcp dport {} tcp flags & syn != syn drop; }}; }}",
        listener.port()
    ));
}

fn let_through() {
    nft("delete table inet hold");
}

#[test]
fn requests_that_no_slot_can_take_move_where_the_kernel_says_and_are_counted() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        Host::with(move |host| {
            let (address, options) = (address.parse().unwrap(), PATIENT);
            let policy = Policy::RoundRobin;
            let mut group = TestGroup::bound(host, Protocol::Tcp, address, policy, options, &[1]);
            let clients = group.connect(CLIENTS);
            // Of the kernel's group, but in no slot.
            let outsider = tcp(&group.address.to_string());
            outsider.set_nonblocking(true).unwrap();
            group.sockets[0] = None;
            let mut accepted = Vec::new();
            wait_until("all that moved", || {
                accepted.extend(outsider.accept());
                accepted.len() == CLIENTS
            });
            let snapshot = group.snapshot();
            assert_eq!((snapshot.fallback, snapshot.errors), (CLIENTS as u64, 0));
            assert_eq!(snapshot.members[0].tally.migrated, 0);
            drop(clients);
        });
    }
}
