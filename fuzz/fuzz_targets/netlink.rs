//! Datagrams of the kernel's socket diagnostics: reading ends, and each socket is in one group, with
//! all others at its place and no other.

#![no_main]

use balancer_steering::{
    discovery::{
        diag,
        grouping::groups,
        netlink::{self, Question},
    },
    group::Protocol,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let mut sockets = Vec::new();
    let mut connections = 0;
    // It answers what was asked.
    let word = |at: usize| Some(u32::from_ne_bytes(*datagram.get(at..)?.first_chunk()?));
    let [sequence, port] = [8, 12].map(|at| word(at).unwrap_or_default());
    let _ = netlink::read(datagram, Question { port, sequence }, |response| {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let name = |index| (index % 2 == 0).then(|| format!("eth{index}"));
            sockets.push(diag::bound_socket(protocol, response, name));
        }
        let connection = diag::connection(response);
        assert_eq!(connection.remote.ip(), connection.remote.ip().to_canonical());
        connections += 1;
    });
    // A response has a header of 72 octets, behind one of 16.
    assert!(connections <= datagram.len() / 88);

    let count = sockets.len();
    let mut places = Vec::new();
    for socket in &sockets {
        if !places.contains(&socket.place) {
            places.push(socket.place.clone());
        }
    }
    let groups = groups(sockets, |_| Some(true));
    assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), count);
    assert_eq!(groups.len(), places.len());
    for group in groups {
        assert!(group.iter().all(|socket| socket.place == group[0].place));
    }
});
