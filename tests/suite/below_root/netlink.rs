//! On a netlink socket whoever has CAP_NET_ADMIN in a namespace may answer in the kernel's place: root
//! of a container can so speak to root's own agent, which looks into it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use harness::Host;
use rustix::net::{
    AddressFamily, SendFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
    sendto, socket,
};
use socket2::{Domain, Socket, Type};

/// `NLMSG_ERROR`, with a code that the kernel has no reason to give.
fn forged(sequence: u32, port: u32) -> Vec<u8> {
    let code = (-99_i32).to_ne_bytes();
    let kind = [2_u16, 0].map(u16::to_ne_bytes).concat();
    let words = [sequence, port].map(u32::to_ne_bytes).concat();
    [&20_u32.to_ne_bytes()[..], &kind, &words, &code].concat()
}

#[test]
fn what_others_say_in_the_kernels_place_is_not_heard() {
    Host::with(|host| {
        let server = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        server.set_reuse_port(true).unwrap();
        let address: std::net::SocketAddr = "127.0.0.1:8090".parse().unwrap();
        server.bind(&address.into()).unwrap();
        // Sockets of UDP are looked for again and again, by a socket whose port is the agent's PID.
        let mut running = host.attach(&["127.0.0.1:8090", "--udp"]);
        let pid = running.pid();
        let forger =
            socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::SOCK_DIAG)).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Those of the first questions, whoever is believed to have asked them.
                let numbers = [(0, 0), (0, pid), (1, pid), (2, pid)];
                let all = numbers.map(|(sequence, port)| forged(sequence, port));
                while !stop.load(Ordering::Relaxed) {
                    for message in &all {
                        let agent = SocketAddrNetlink::new(pid, 0);
                        // Mostly nobody is there, or the kernel does not let us in.
                        let _ = sendto(&forger, message, SendFlags::DONTWAIT, &agent);
                    }
                }
            });
            for _ in 0..10 {
                let more = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
                more.set_reuse_port(true).unwrap();
                more.bind(&address.into()).unwrap();
                running.wait_for("is steered");
            }
            stop.store(true, Ordering::Relaxed);
        });
        let ended = running.stop();
        assert_eq!(ended.stderr, "");
    });
}
