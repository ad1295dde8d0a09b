//! Connections that leave a listener that closes, are handed to another process, or come with data in
//! their SYN: counted once, where they are, and no longer than they are open.

use std::{
    io::{BufRead as _, BufReader, IoSlice, Read as _, Write as _},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use balancer_steering::{policy::Policy, steering::Store};
use harness::{
    Host, TestGroup,
    client::request,
    group::PATIENT,
    running::{send, wait_until, wait_until_gone, watch},
    sockets::tcp,
    there,
};
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::Signal,
};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    IPV4, IPV6, established, group,
    machine::{counter, delay_loopback, sysctl},
    misses, of_members, policies_at, since,
};

fn migrated(group: &TestGroup) -> Vec<u64> {
    group.snapshot().members.iter().map(|member| member.tally.migrated).collect()
}

#[test]
fn under_every_policy_what_waits_at_a_worker_that_is_killed_counts_for_those_that_get_it() {
    for address in [IPV4, IPV6] {
        Host::with(move |host| {
            for policy in policies_at(address) {
                let mut group = group(host, address, policy, PATIENT, &[1; 3]);
                let clients = group.connect(30);
                // The one with the most: all of them, under `sticky`.
                let selected = group.selected();
                let hung = (0..3).max_by_key(|&slot| selected[slot]).unwrap();
                let waiting = selected[hung];
                assert_eq!(group.open(), selected, "{policy:?}");
                group.sockets[hung] = None;
                // A child of another test may have it open for the moment before it becomes another program.
                wait_until("the listener is closed", || group.open()[hung] == 0);
                let open = group.open();
                assert_eq!((open[hung], open.iter().sum::<u64>()), (0, 30), "{policy:?}: {open:?}");
                let moved = migrated(&group);
                assert_eq!((moved[hung], moved.iter().sum::<u64>()), (0, waiting), "{policy:?}");
                let others = (0..3).filter(|&slot| slot != hung);
                for slot in others {
                    assert_eq!(open[slot], selected[slot] + moved[slot], "{policy:?}");
                    assert_eq!(group.accept_all(slot).len() as u64, open[slot], "{policy:?}");
                    assert_eq!(group.open()[slot], 0, "{policy:?}: all of them are closed");
                }
                drop(clients);
                assert_eq!((group.open(), misses(&group)), (vec![0; 3], (0, 0)), "{policy:?}");
                group.steering.detach(&Store::at(host.bpffs())).unwrap();
            }
        });
    }
}

#[test]
fn connections_that_have_moved_move_again() {
    Host::with(|host| {
        let mut group = group(host, IPV4, Policy::LeastConnections, PATIENT, &[1; 4]);
        let mut clients = group.connect(40);
        let kept = group.sockets[0].as_ref().unwrap().accept().unwrap();
        assert_eq!(group.open(), [10; 4]);
        for (closes, left) in [(0, 3), (1, 2), (2, 1)] {
            group.sockets[closes] = None;
            let open = group.open();
            assert_eq!(open.iter().sum::<u64>(), 40, "{open:?}");
            assert_eq!(open[0], 1, "what was accepted stays: {open:?}");
            assert!(open[1..=closes].iter().all(|open| *open == 0), "{open:?}");
            let apart =
                open[4 - left..].iter().max().unwrap() - open[4 - left..].iter().min().unwrap();
            assert!(apart <= 1, "{open:?}");
        }
        assert_eq!(group.open(), [1, 0, 0, 39]);
        // One that moved three times ends in the queue.
        SockRef::from(&clients.pop().unwrap()).set_linger(Some(Duration::ZERO)).unwrap();
        assert_eq!(group.open(), [1, 0, 0, 38]);
        drop(kept);
        let accepted = group.accept_all(3);
        assert_eq!((accepted.len(), group.open()), (39, vec![0, 0, 0, 38]));
        drop(accepted);
        assert_eq!((group.open(), misses(&group)), (vec![0; 4], (0, 0)));
    });
}

#[test]
fn with_the_last_listener_all_that_waits_ends_and_counts_no_more() {
    Host::with(|host| {
        let mut group = group(host, IPV4, Policy::RoundRobin, PATIENT, &[1; 2]);
        let _clients = group.connect(10);
        group.sockets[0] = None;
        assert_eq!(group.open(), [0, 10]);
        group.sockets[1] = None;
        assert_eq!(group.open(), [0, 0]);
    });
}

#[test]
fn a_hung_worker_of_run_that_is_killed_leaves_exact_counts() {
    Host::with(|host| {
        let args = ["--workers", "3", "--avoid-stalled", "off", "--listen", IPV4];
        let running = host.run(&args);
        let hung = running.workers()[0];
        send(hung, Signal::STOP);
        let clients: Vec<_> =
            (0..30).map(|_| harness::client::connect(running.address()).unwrap()).collect();
        wait_until("the others have served theirs", || {
            of_members(&host.status(), "open").iter().sum::<u64>() == 10
        });
        host.succeed(&["policy", "least-connections"]);
        let process = watch(hung);
        send(hung, Signal::KILL);
        wait_until_gone(&process, "the hung worker");
        let answers = clients.into_iter().map(|client| harness::client::receive(client).unwrap());
        assert!(answers.into_iter().all(|answer| answer.pid != hung));
        wait_until("all are closed", || {
            of_members(&host.status(), "open").iter().all(|open| *open == 0)
        });
        request(running.address()).unwrap();
        running.stop();
    });
}

#[test]
fn behind_a_queue_with_a_timer_resets_from_either_side_leave_no_count_behind() {
    if !there("tc") {
        return;
    }
    Host::with(|host| {
        let group = group(host, IPV4, Policy::LeastConnections, PATIENT, &[1; 2]);
        delay_loopback("12mbit");
        let serve = |slot: usize| {
            let socket = group.sockets[slot].as_ref().unwrap().try_clone().unwrap();
            socket.set_nonblocking(false).unwrap();
            thread::spawn(move || {
                for number in 0u32.. {
                    let Ok((connection, _)) = socket.accept() else { break };
                    if number.is_multiple_of(3) {
                        let _ = connection.set_linger(Some(Duration::ZERO));
                    }
                }
            })
        };
        let servers = [serve(0), serve(1)];
        let (mut clients, mut begun) = (std::collections::VecDeque::new(), 0u32);
        while begun < 4000 || !clients.is_empty() {
            while begun < 4000 && clients.len() < 60 {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                if begun.is_multiple_of(2) {
                    client.set_linger(Some(Duration::ZERO)).unwrap();
                }
                let _ = client.connect(&group.address.into());
                clients.push_back(client);
                begun += 1;
            }
            // The handshake is through, for the client.
            let client = clients.pop_front().unwrap();
            let mut poll = [rustix::event::PollFd::new(&client, rustix::event::PollFlags::OUT)];
            rustix::event::poll(&mut poll, None).unwrap();
        }
        wait_until("all were established", || established(&group).iter().sum::<u64>() == 4000);
        wait_until("all have ended", || group.open() == [0, 0]);
        assert_eq!((group.selected().iter().sum::<u64>(), misses(&group)), (4000, (0, 0)));
        for socket in group.sockets.iter().flatten() {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        servers.into_iter().for_each(|server| server.join().unwrap());
    });
}

/// A process that takes connections which are handed to it, and keeps them until it is told.
struct Keeper {
    child: Child,
    channel: UnixStream,
}

const KEEPER: &str = "\
import array, socket, sys
channel, kept = socket.socket(fileno=0), []
while True:
    said, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_LEN(4))
    if not said:
        break
    kept.append(array.array('i', ancillary[0][2][:4])[0])
    print(len(kept), flush=True)
";

impl Keeper {
    fn start() -> Self {
        let (channel, theirs) = UnixStream::pair().unwrap();
        let child = Command::new("python3")
            .args(["-c", KEEPER])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, channel }
    }

    /// Hands a connection over, and gives it up.
    fn take(&self, connection: Socket) {
        let fds = [connection.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&self.channel, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
    }

    /// Waits until it has so many, and lets it end.
    fn has(&mut self, count: usize) {
        let output = BufReader::new(self.child.stdout.take().unwrap());
        let last = output.lines().take(count).last().unwrap().unwrap();
        assert_eq!(last, count.to_string());
    }

    fn end(mut self) {
        drop(self.channel);
        self.child.wait().unwrap();
    }
}

#[test]
fn connections_that_are_handed_to_another_process_count_for_their_listener_until_they_end() {
    Host::with_python(|host| {
        let address = "127.0.0.1:8000";
        let mut sockets = vec![tcp(address), tcp(address), tcp(address)];
        let running =
            host.attach(&[":8000", "--policy", "least-connections", "--avoid-stalled", "off"]);
        let clients: Vec<_> = (0..30).map(|_| TcpStream::connect(address).unwrap()).collect();
        let open = || of_members(&host.status(), "open");
        assert_eq!(open(), [10, 10, 10]);
        let mut keeper = Keeper::start();
        for _ in 0..8 {
            keeper.take(sockets[0].accept().unwrap().0);
        }
        assert_eq!(open(), [10, 10, 10]);
        keeper.has(8);
        assert_eq!(open(), [10, 10, 10]);
        // Two that wait move; the eight are where they were.
        let mut running = running;
        drop(sockets.remove(0));
        running.wait_for("is gone from slot 0");
        assert_eq!(open().iter().sum::<u64>(), 22, "{:?}", open());
        assert_eq!(open().len(), 2);
        keeper.end();
        assert_eq!(open().iter().sum::<u64>(), 22);
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            while socket.accept().is_ok() {}
        }
        assert_eq!(open(), [0, 0]);
        drop(clients);
        running.stop();
    });
}

#[test]
fn a_connection_of_one_slot_that_another_process_keeps_outlives_its_listener_in_the_count() {
    Host::with_python(|host| {
        let mut group = group(host, IPV4, Policy::LeastConnections, PATIENT, &[1; 2]);
        let clients = group.connect(10);
        let mut keeper = Keeper::start();
        let accepted = group.accept_all(0);
        assert_eq!(accepted.len(), 5);
        accepted.into_iter().for_each(|connection| keeper.take(connection));
        keeper.has(5);
        group.sockets[0] = None;
        assert_eq!(group.open(), [5, 5]);
        keeper.end();
        assert_eq!(group.open(), [0, 5]);
        drop((clients, group.accept_all(1)));
        assert_eq!(group.open(), [0, 0]);
    });
}

const MSG_FASTOPEN: i32 = 0x2000_0000;

/// A connection that brings data with its SYN.
fn fast_open(address: SocketAddr) -> TcpStream {
    let client = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    client.send_to_with_flags(b"Hello", &address.into(), MSG_FASTOPEN).unwrap();
    client.into()
}

#[test]
fn connections_by_fast_open_count_once_and_end_at_none() {
    for address in [IPV4, IPV6] {
        Host::with(move |host| {
            // For clients and servers; each client has to have a cookie.
            sysctl("net/ipv4/tcp_fastopen", "3");
            let mut group = group(host, address, Policy::RoundRobin, PATIENT, &[1; 3]);
            for socket in group.sockets.iter().flatten() {
                allow_fast_open(socket);
            }
            // The first fetches the cookie.
            let first = fast_open(group.address);
            wait_until("it is established", || established(&group).iter().sum::<u64>() == 1);
            let opened = || counter("netstat", "TcpExt", "TCPFastOpenPassive");
            assert_eq!(opened(), 0);
            for policy in [Policy::RoundRobin, Policy::LeastConnections, Policy::Random] {
                group.steering.set_policy(policy, PATIENT).unwrap();
                let before = (group.selected(), established(&group), opened());
                let clients: Vec<_> = (0..30).map(|_| fast_open(group.address)).collect();
                let given = since(&before.0, &group.selected());
                assert_eq!(opened() - before.2, 30, "{policy:?} at {address}");
                assert_eq!(given.iter().sum::<u64>(), 30, "{policy:?} at {address}");
                assert_eq!(given, since(&before.1, &established(&group)), "{policy:?}");
                if policy == Policy::RoundRobin {
                    assert_eq!(given, [10, 10, 10]);
                }
                let open = group.open();
                for slot in 0..3 {
                    for connection in group.accept_all(slot) {
                        let mut said = [0; 5];
                        TcpStream::from(connection).read_exact(&mut said).unwrap();
                        assert_eq!(&said, b"Hello");
                    }
                }
                let waited = open.iter().sum::<u64>();
                assert_eq!(waited, 30 + u64::from(policy == Policy::RoundRobin));
                wait_until("none is open", || group.open() == [0, 0, 0]);
                drop(clients);
            }
            assert_eq!(misses(&group), (0, 0));
            drop(first);
        });
    }
}

/// Has a listener take data with a SYN from so many at once.
fn allow_fast_open(socket: &Socket) {
    let most = 256i32;
    let length = u32::try_from(size_of::<i32>()).unwrap();
    // SAFETY: the kernel reads so many octets there.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const most).cast(),
            length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn several_sockets_of_one_process_are_counted_each_for_itself() {
    Host::with(|host| {
        let address = "127.0.0.1:8000";
        let mut sockets: Vec<_> = (0..4).map(|_| tcp(address)).collect();
        let mut running = host.attach(&[":8000", "--avoid-stalled", "off"]);
        let mut clients: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
        let open = || of_members(&host.status(), "open");
        assert_eq!(open(), [10; 4]);
        drop(sockets[1].accept().unwrap());
        assert_eq!(open(), [10, 9, 10, 10]);
        drop(sockets.remove(2));
        running.wait_for("is gone from slot 2");
        let (status, left) = (host.status(), open());
        assert_eq!((left.len(), left.iter().sum::<u64>()), (3, 39));
        assert_eq!(of_members(&status, "migrated").iter().sum::<u64>(), 10);
        clients.iter_mut().for_each(|client| drop(client.write_all(b".")));
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            while socket.accept().is_ok() {}
        }
        assert_eq!(open(), [0; 3]);
        running.stop();
    });
}
