//! Another program on the group, or none: the agent notices, says so and puts ours back.

use std::{net::TcpStream, os::fd::AsRawFd as _};

use harness::{
    Host, Running,
    client::{by_slot, requests},
    nft,
    running::wait_until,
    sockets::tcp,
    there,
};
use serde_json::Value;
use socket2::Socket;

use super::{IPV4, machine::delay_loopback, of_members, since};

const ADDRESS: &str = "127.0.0.1:8000";

/// What members of a group do to its program.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A classic program of their own, which always chooses the first socket.
    Replace,
    /// None any more.
    Detach,
}

const ACTS: [Act; 2] = [Act::Replace, Act::Detach];

impl Act {
    /// Does it by one of the group's sockets.
    fn by(self, socket: &Socket) {
        // Of linux/filter.h: BPF_RET | BPF_K.
        let mut code = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
        let program = libc::sock_fprog { len: 1, filter: &raw mut code };
        let (option, value, length) = match self {
            Self::Replace => {
                let value = (&raw const program).cast();
                (libc::SO_ATTACH_REUSEPORT_CBPF, value, size_of::<libc::sock_fprog>())
            }
            Self::Detach => (SO_DETACH_REUSEPORT_BPF, (&raw const code).cast(), size_of::<i32>()),
        };
        let length = u32::try_from(length).unwrap();
        // SAFETY: the kernel reads so many octets there, and of the program what it points to.
        let result = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length)
        };
        assert_eq!(result, 0, "{self:?}: {}", std::io::Error::last_os_error());
    }
}

/// Of asm-generic/socket.h.
const SO_DETACH_REUSEPORT_BPF: i32 = 68;

/// Members of the test's own, which accept without an end to the connection.
struct Members(Vec<Socket>);

impl Members {
    fn open(count: usize) -> Self {
        let sockets: Vec<Socket> = (0..count).map(|_| tcp(ADDRESS)).collect();
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        Self(sockets)
    }

    /// So many clients come and go; how many each member accepted.
    fn serve(&self, clients: usize) -> Vec<usize> {
        let clients: Vec<_> = (0..clients).map(|_| TcpStream::connect(ADDRESS).unwrap()).collect();
        let accept = |socket: &Socket| std::iter::from_fn(|| socket.accept().ok()).count();
        let accepted = self.0.iter().map(accept).collect();
        drop(clients);
        accepted
    }
}

/// `displaced` and `unasked`.
fn noticed(status: &Value) -> (u64, u64) {
    (status["displaced"].as_u64().unwrap(), status["unasked"].as_u64().unwrap())
}

/// Lets clients come until the program has been put back so often.
fn until_put_back(host: &Host, mut client: impl FnMut(), times: u64) {
    wait_until("it is noticed", || {
        client();
        noticed(&host.status()).0 == times
    });
}

/// Shares of so many connections are exact, and all are chosen for.
fn is_in_force(host: &Host, members: &Members) {
    let before = host.status();
    assert_eq!(members.serve(30), [10, 10, 10]);
    let after = host.status();
    for field in ["selected", "established"] {
        let given = since(&of_members(&before, field), &of_members(&after, field));
        assert_eq!(given, [10, 10, 10], "{field}");
    }
    assert_eq!(noticed(&before), noticed(&after));
}

#[test]
fn attach_notices_that_its_program_was_replaced_or_detached_and_puts_it_back() {
    for act in ACTS {
        Host::with(move |host| {
            let members = Members::open(3);
            let running = host.attach(&[":8000"]);
            is_in_force(host, &members);
            assert_eq!(noticed(&host.status()), (0, 0));
            act.by(&members.0[1]);
            let before = of_members(&host.status(), "selected");
            let served = members.serve(12);
            assert_eq!(served.iter().sum::<usize>(), 12, "{act:?}");
            if matches!(act, Act::Replace) {
                assert_eq!(served, [12, 0, 0], "the classic program is there");
            }
            assert_eq!(of_members(&host.status(), "selected"), before, "ours is not asked");
            until_put_back(host, || drop(members.serve(3)), 1);
            is_in_force(host, &members);
            let status = host.status();
            assert!(noticed(&status).1 > 0, "{status}");
            let shown = host.succeed(&["status"]);
            assert!(shown.contains("put back once"), "{shown}");
            let ended = running.stop();
            assert!(ended.status.success(), "{ended:?}");
            assert_eq!(ended.stderr.matches("attached again").count(), 1, "{ended:?}");
            assert!(ended.stderr.contains("replaced or detached"), "{ended:?}");
        });
    }
}

#[test]
fn run_notices_that_its_program_was_replaced_or_detached_and_puts_it_back() {
    for act in ACTS {
        Host::with(move |host| {
            let running = host.run(&["--workers", "3", "--listen", IPV4]);
            let address = running.address();
            assert!(by_slot(&requests(address, 30)).values().all(|count| *count == 10));
            // Any process of the group's user may join and do so; it need not stay.
            let stranger = tcp(&address.to_string());
            act.by(&stranger);
            drop(stranger);
            until_put_back(host, || drop(requests(address, 3)), 1);
            let shares = by_slot(&requests(address, 30));
            assert!(shares.len() == 3 && shares.values().all(|count| *count == 10), "{shares:?}");
            assert!(noticed(&host.status()).1 > 0);
            let ended = running.stop();
            assert_eq!(ended.stderr.matches("attached again").count(), 1, "{ended:?}");
        });
    }
}

#[test]
fn taken_off_again_and_again_it_is_given_up_and_said_what_to_do_and_a_policy_by_hand_works() {
    Host::with(|host| {
        let members = Members::open(3);
        let mut running = host.attach(&[":8000"]);
        for times in 1..=3 {
            // Asked once at least, or it would be the same time.
            members.serve(3);
            Act::Detach.by(&members.0[0]);
            until_put_back(host, || drop(members.serve(3)), times);
        }
        is_in_force(host, &members);
        Act::Replace.by(&members.0[0]);
        // Twice, as what came before the program was replaced may be in the first look.
        for _ in 0..2 {
            let (_, before) = noticed(&host.status());
            wait_until("connections come that it is not asked about", || {
                members.serve(3);
                noticed(&host.status()).1 > before
            });
            has_looked(host, &mut running);
        }
        assert_eq!(noticed(&host.status()).0, 3);
        let before = of_members(&host.status(), "selected");
        assert_eq!(members.serve(9), [9, 0, 0], "it is the other's now");
        assert_eq!(of_members(&host.status(), "selected"), before);
        host.succeed(&["policy", "round-robin"]);
        is_in_force(host, &members);
        let ended = running.stop();
        assert_eq!(ended.stderr.matches("attached again").count(), 3, "{ended:?}");
        for part in ["setsockopt", "SO_ATTACH_REUSEPORT_CBPF", "`balancer policy round-robin`"] {
            assert!(ended.stderr.contains(part), "no {part:?} in {ended:?}");
        }
    });
}

/// Waits until the agent has looked at all that has come by now: it does so before it says how many.
fn has_looked(host: &Host, running: &mut Running) {
    let come = of_members(&host.status(), "established").iter().sum::<u64>();
    let mut seen = 0;
    while seen < come {
        let line = running.wait_for(" connections=");
        let (_, count) = line.split_once(" connections=").unwrap();
        seen = count.split(' ').next().unwrap().parse().unwrap();
    }
}

#[test]
fn without_an_agent_status_tells_of_connections_that_nobody_was_asked_about() {
    for act in ACTS {
        Host::with(move |host| {
            let members = Members::open(3);
            host.succeed(&["attach", ":8000", "--once"]);
            is_in_force(host, &members);
            let shown = host.succeed(&["status"]);
            assert!(!shown.contains("without the program having been asked"), "{shown}");
            act.by(&members.0[2]);
            wait_until("it shows", || {
                members.serve(3);
                noticed(&host.status()).1 > 0
            });
            let shown = host.succeed(&["status"]);
            assert!(shown.contains("without the program having been asked"), "{shown}");
            assert_eq!(noticed(&host.status()).0, 0);
            host.succeed(&["policy", "round-robin"]);
            is_in_force(host, &members);
        });
    }
}

#[test]
fn a_takeover_puts_the_program_back_that_was_taken_off_while_no_agent_was_there() {
    for act in ACTS {
        Host::with(move |host| {
            let members = Members::open(3);
            host.attach(&[":8000"]).kill();
            is_in_force(host, &members);
            act.by(&members.0[0]);
            let before = of_members(&host.status(), "selected");
            members.serve(9);
            assert_eq!(of_members(&host.status(), "selected"), before, "{act:?}");
            let running = host.attach(&[":8000", "--takeover"]);
            is_in_force(host, &members);
            running.stop();
        });
    }
}

#[test]
fn slow_handshakes_are_not_taken_for_connections_that_nobody_was_asked_about() {
    if !there("tc") {
        return;
    }
    Host::with(|host| {
        let members = Members::open(3);
        let mut running = host.attach(&[":8000"]);
        // Two seconds for all that these clients send, and more for the last of them.
        delay_loopback("64kbit");
        let clients: Vec<Socket> = (0..60)
            .map(|_| {
                let client = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
                let client = client.unwrap();
                client.set_nonblocking(true).unwrap();
                let _ = client.connect(&ADDRESS.parse::<std::net::SocketAddr>().unwrap().into());
                client
            })
            .collect();
        wait_until("all handshakes", || {
            of_members(&host.status(), "established").iter().sum::<u64>() == 60
        });
        for _ in 0..2 {
            running.wait_for("round-robin connections=");
        }
        assert_eq!(noticed(&host.status()), (0, 0));
        assert_eq!(of_members(&host.status(), "selected"), [20, 20, 20]);
        drop((clients, members));
        let ended = running.stop();
        assert!(!ended.stderr.contains("attached again"), "{ended:?}");
    });
}

#[test]
fn handshakes_whose_ack_comes_seconds_later_are_not_taken_for_that_either() {
    if !there("nft") {
        return;
    }
    Host::with(|host| {
        let members = Members::open(3);
        let mut running = host.attach(&[":8000"]);
        nft("table ip hold { chain in { type filter hook input priority 0; \
             tcp dport 8000 tcp flags & syn != syn drop; }; }");
        let clients: Vec<_> = (0..12).map(|_| TcpStream::connect(ADDRESS).unwrap()).collect();
        for _ in 0..3 {
            running.wait_for("round-robin connections=");
        }
        assert_eq!(of_members(&host.status(), "established"), [0, 0, 0]);
        nft("delete table ip hold");
        for client in &clients {
            std::io::Write::write_all(&mut &*client, b"!").unwrap();
        }
        wait_until("all handshakes", || of_members(&host.status(), "established") == [4, 4, 4]);
        running.wait_for("round-robin connections=");
        running.wait_for("round-robin connections=");
        assert_eq!(noticed(&host.status()), (0, 0));
        assert_eq!(of_members(&host.status(), "open"), [4, 4, 4]);
        drop(members);
        let ended = running.stop();
        assert!(!ended.stderr.contains("attached again"), "{ended:?}");
    });
}
