//! Behind rules of the firewall that match sockets, a choice is made once per connection.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
};

use balancer_steering::policy::Policy;
use harness::{
    Host,
    client::{by_slot, requests},
    group::PATIENT,
    sockets::{send_segment, tcp},
    there,
};
use rustix::process::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    IPV4, IPV6, drain_all_but,
    early_looks::{found, look_up, look_up_of_errors},
    established, group, misses, of_members, policies_at, since, tallies,
};

/// Each kind of address on a host of its own, where there is nft.
fn for_each_family(test: impl Fn(&Host, &str) + Clone + Send + 'static) {
    if !there("nft") {
        return;
    }
    for address in [IPV4, IPV6] {
        let test = test.clone();
        Host::with(move |host| test(host, address));
    }
}

#[test]
fn behind_a_rule_that_matches_sockets_a_rotation_is_even() {
    for matched in ["transparent 0", "wildcard 0", "mark 0"] {
        for_each_family(move |host, address| {
            let mut group = group(host, address, Policy::RoundRobin, PATIENT, &[1; 4]);
            look_up(group.address.port(), &[matched]);
            let mut clients = Vec::new();
            for members in [4, 3, 2] {
                drain_all_but(&mut group, members);
                let before = (group.selected(), established(&group));
                clients.extend(group.connect(12 * members));
                let each: Vec<u64> = (0..4).map(|slot| 12 * u64::from(slot < members)).collect();
                assert_eq!(since(&before.0, &group.selected()), each, "{matched}");
                assert_eq!(since(&before.1, &established(&group)), each, "{matched}");
            }
            assert_eq!(misses(&group), (0, 0));
            assert!(found()[0] >= clients.len() as u64, "the rule has looked: {:?}", found());
        });
    }
}

#[test]
fn behind_rules_that_look_three_times_weights_are_kept_exactly() {
    for_each_family(|host, address| {
        let group = group(host, address, Policy::Weighted, PATIENT, &[5, 3, 2]);
        look_up(group.address.port(), &["transparent 0", "wildcard 0", "mark 0"]);
        let _clients = group.connect(50);
        assert_eq!(group.selected(), [25, 15, 10]);
        assert_eq!(established(&group), [25, 15, 10]);
        assert!(found().iter().all(|found| *found >= 50), "{:?}", found());
        assert_eq!(misses(&group), (0, 0));
    });
}

#[test]
fn under_every_policy_the_worker_that_is_counted_is_the_one_that_gets_the_connection() {
    for_each_family(|host, address| {
        let mut group = group(host, address, Policy::Hash, PATIENT, &[1; 4]);
        look_up(group.address.port(), &["transparent 0", "wildcard 0"]);
        let mut clients = Vec::new();
        for policy in policies_at(address) {
            group.steering.set_policy(policy, PATIENT).unwrap();
            let before = tallies(&group);
            clients.extend(group.connect(40));
            let given: Vec<(u64, u64)> = tallies(&group)
                .iter()
                .zip(before)
                .map(|(now, before)| {
                    (now.selected - before.selected, now.established - before.established)
                })
                .collect();
            assert!(given.iter().all(|(s, e)| s == e), "{policy:?} at {address}: {given:?}");
            assert_eq!(given.iter().map(|(s, _)| s).sum::<u64>(), 40, "{policy:?} at {address}");
        }
        assert_eq!(misses(&group), (0, 0));
    });
}

#[test]
fn behind_such_rules_connections_are_reserved_once_and_the_fewest_get_the_next() {
    for_each_family(|host, address| {
        let group = group(host, address, Policy::LeastConnections, PATIENT, &[1; 3]);
        look_up(group.address.port(), &["transparent 0", "wildcard 0", "mark 0"]);
        let mut clients = group.connect(30);
        assert_eq!((group.open(), group.selected()), (vec![10; 3], vec![10; 3]));
        drop(group.accept_all(1));
        clients.extend(group.connect(10));
        assert_eq!(group.open(), [10, 10, 10]);
        assert_eq!(group.selected(), [10, 20, 10]);
    });
}

#[test]
fn behind_such_rules_a_client_stays_with_its_worker() {
    for_each_family(|host, address| {
        let group = group(host, address, Policy::Sticky, PATIENT, &[1; 4]);
        let mut clients = group.connect(1);
        let before = group.selected();
        look_up(group.address.port(), &["transparent 0"]);
        clients.extend(group.connect(19));
        let expected: Vec<u64> = before.iter().map(|selected| selected * 20).collect();
        assert_eq!((group.selected(), established(&group)), (expected.clone(), expected));
    });
}

#[test]
fn an_ipv6_packet_with_headers_in_front_of_tcp_is_chosen_for_once() {
    for_each_family(|host, address| {
        if address == IPV4 {
            return;
        }
        let group = group(host, address, Policy::RoundRobin, PATIENT, &[1; 3]);
        let connect = |options: &[i32]| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            for &option in options {
                send_with_header(&socket, option);
            }
            socket.connect(&group.address.into()).unwrap();
            socket
        };
        let kinds: [&[i32]; 3] = [
            &[libc::IPV6_DSTOPTS],
            &[libc::IPV6_HOPOPTS],
            &[libc::IPV6_HOPOPTS, libc::IPV6_DSTOPTS],
        ];
        let mut clients = Vec::new();
        clients.extend(kinds.iter().cycle().take(9).map(|kind| connect(kind)));
        assert_eq!((group.selected(), established(&group)), (vec![3; 3], vec![3; 3]), "no rule");
        look_up(group.address.port(), &["transparent 0", "wildcard 0"]);
        clients.extend(kinds.iter().cycle().take(18).map(|kind| connect(kind)));
        assert_eq!((group.selected(), established(&group)), (vec![9; 3], vec![9; 3]));
        assert!(found()[0] >= 18, "{:?}", found());
        assert_eq!(misses(&group), (0, 0));
    });
}

/// Has all packets of a connection carry an IPv6 extension header of eight octets of padding.
fn send_with_header(socket: &Socket, option: i32) {
    // RFC 8200, section 4.2: next header and length, which the kernel fills in; PadN of four octets.
    set_option(socket, libc::IPPROTO_IPV6, option, &[0u8, 0, 1, 4, 0, 0, 0, 0]);
}

/// Sets an option of a socket.
fn set_option<T>(socket: &Socket, level: i32, option: i32, value: &T) {
    let length = u32::try_from(size_of::<T>()).unwrap();
    // SAFETY: the kernel reads so many octets there.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

const STRAYS: [(&str, u8); 6] = [
    ("ACK", 0x10),
    ("FIN ACK", 0x11),
    ("FIN", 0x01),
    ("RST", 0x04),
    ("SYN ACK", 0x12),
    ("nothing", 0x00),
];

#[test]
fn segments_that_begin_no_connection_draw_and_count_nothing_behind_such_a_rule() {
    for_each_family(|host, address| {
        // The harness sends IPv4.
        if address == IPV6 {
            return;
        }
        let group = group(host, address, Policy::RoundRobin, PATIENT, &[1, 1]);
        let mut clients = group.connect(2);
        for matches in [&[][..], &["transparent 0", "wildcard 0"]] {
            if !matches.is_empty() {
                look_up(group.address.port(), matches);
            }
            let before = tallies(&group);
            for (name, flags) in STRAYS {
                send_segment(group.address, flags);
                assert_eq!(tallies(&group), before, "{name} behind {matches:?}");
            }
            // An odd number of strays in between: a rotation that they move would not be even.
            for flags in [0x10, 0x11, 0x04] {
                clients.extend(group.connect(1));
                send_segment(group.address, flags);
            }
            clients.extend(group.connect(1));
            assert_eq!(since(&[before[0].selected, before[1].selected], &group.selected()), [2, 2]);
        }
        assert!(found()[0] >= 6, "the rules saw the strays: {:?}", found());
        assert_eq!((group.open().iter().sum::<u64>(), misses(&group)), (10, (0, 0)));
    });
}

#[test]
fn an_icmp_error_that_quotes_a_syn_to_the_listener_draws_nothing() {
    for_each_family(|host, address| {
        let group = group(host, address, Policy::RoundRobin, PATIENT, &[1, 1]);
        let _clients = group.connect(3);
        look_up_of_errors();
        for _ in 0..3 {
            send_error(group.address);
        }
        // Without the packet, on kernels that are known; a program that ran would take it for a SYN if it
        // did not look at the protocol.
        assert_eq!(found(), [3], "the listener was looked up");
        assert_eq!((group.selected(), misses(&group)), (vec![2, 1], (0, 0)));
        let _more = group.connect(1);
        assert_eq!(group.selected(), [2, 2]);
    });
}

/// Sends an ICMP error about a SYN that came from the listener: unreachable, by an administrator.
fn send_error(listener: SocketAddr) {
    let mut tcp = [0; 20];
    tcp[..2].copy_from_slice(&listener.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&50_000u16.to_be_bytes());
    (tcp[12], tcp[13]) = (5 << 4, 0x02);
    let (domain, protocol, head, ip) = match listener {
        SocketAddr::V4(_) => {
            let mut ip = vec![0; 20];
            // The identification stands where the flags would, if TCP were taken to begin at ICMP.
            (ip[0], ip[3], ip[5], ip[8], ip[9]) = (0x45, 40, 2, 64, 6);
            ip[12..16].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
            ip[16..].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
            (Domain::IPV4, Protocol::ICMPV4, [3, 13, 0, 0, 0, 0, 0, 0], ip)
        }
        SocketAddr::V6(_) => {
            let mut ip = vec![0; 40];
            // The length does, which nobody compares with what is there.
            (ip[0], ip[5], ip[6], ip[7]) = (0x60, 2, 6, 64);
            ip[8..24].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
            ip[24..].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
            (Domain::IPV6, Protocol::ICMPV6, [1, 1, 0, 0, 0, 0, 0, 0], ip)
        }
    };
    let mut message = [&head[..], &ip, &tcp].concat();
    if listener.is_ipv4() {
        let sum: u32 =
            message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    let to = SocketAddr::new(listener.ip(), 0);
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.send_to(&message, &to.into()).unwrap();
}

#[test]
fn balancers_own_workers_share_evenly_behind_such_a_rule() {
    for_each_family(|host, address| {
        let running = host.run(&["--listen", address, "--workers", "3"]);
        look_up(running.address().port(), &["transparent 0", "wildcard 0"]);
        let answers = requests(running.address(), 30);
        assert!(by_slot(&answers).values().all(|count| *count == 10), "{answers:?}");
        let status = host.status();
        assert_eq!(of_members(&status, "selected"), [10; 3]);
        assert_eq!(of_members(&status, "established"), [10; 3]);
        running.signal(Signal::INT);
        let ended = running.ended();
        assert!(ended.status.success(), "{ended:?}");
    });
}

#[test]
fn attached_servers_share_evenly_behind_such_a_rule() {
    for_each_family(|host, address| {
        let address = address.replace(":0", ":8000");
        let sockets = [tcp(&address), tcp(&address), tcp(&address), tcp(&address)];
        let running = host.attach(&[&address, "--avoid-stalled", "off"]);
        look_up(8000, &["wildcard 0"]);
        let _clients: Vec<_> =
            (0..40).map(|_| TcpStream::connect(address.as_str()).unwrap()).collect();
        let status = host.status();
        assert_eq!(of_members(&status, "selected"), [10; 4]);
        assert_eq!(of_members(&status, "established"), [10; 4]);
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            assert_eq!(std::iter::from_fn(|| socket.accept().ok()).count(), 10);
        }
        running.stop();
    });
}
