//! Who gets a dead worker's connections is woken: it waits for connections, none comes after those,
//! and it takes them.

use std::{
    fs,
    net::TcpStream,
    os::fd::AsFd as _,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use balancer_common::record::SlotState;
use balancer_steering::{group::Protocol, policy::Policy};
use harness::{
    Host, TestGroup,
    client::{connect, receive, requests},
    running::{PATIENCE, send, wait_until, wait_until_gone, watch},
};
use rustix::{
    event::{PollFd, PollFlags, epoll, poll},
    process::Signal,
    thread::gettid,
};
use socket2::Socket;

/// How a worker waits for connections.
#[derive(Clone, Copy, Debug)]
enum Waits {
    Accept,
    Poll,
    Epoll(epoll::EventFlags),
}

impl Waits {
    /// Accepts connections, and tells of each.
    fn serve(self, listener: &Socket, accepted: &Sender<()>) {
        listener.set_nonblocking(!matches!(self, Self::Accept)).unwrap();
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        if let Self::Epoll(flags) = self {
            epoll::add(&set, listener, epoll::EventData::new_u64(0), flags).unwrap();
        }
        loop {
            match self {
                Self::Accept => {}
                Self::Poll => {
                    let mut sockets = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
                    poll(&mut sockets, None).unwrap();
                }
                Self::Epoll(_) => {
                    let mut events = Vec::with_capacity(1);
                    epoll::wait(&set, rustix::buffer::spare_capacity(&mut events), None).unwrap();
                }
            }
            while listener.accept().is_ok() {
                let _ = accepted.send(());
            }
        }
    }
}

/// A worker: which thread it is, and what it accepts. It waits on until the process ends.
fn worker(waits: Waits, listener: Socket) -> (u32, Receiver<()>) {
    let (thread_of, thread) = channel();
    let (sender, accepted) = channel();
    thread::spawn(move || {
        thread_of.send(gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
        waits.serve(&listener, &sender);
    });
    (thread.recv().unwrap(), accepted)
}

/// Waits until a thread or process sleeps; how often it has gone to sleep.
fn naps(task: u32) -> u64 {
    let mut naps = 0;
    wait_until("a worker sleeps", || {
        let status = fs::read_to_string(format!("/proc/{task}/status")).unwrap();
        let field = |name| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            rest.trim().to_owned()
        };
        naps = field("voluntary_ctxt_switches:").parse().unwrap();
        field("State:").starts_with('S')
    });
    naps
}

#[test]
fn a_worker_that_waits_takes_what_migrates_to_it_however_it_waits() {
    let level = Waits::Epoll(epoll::EventFlags::IN);
    let edge = Waits::Epoll(epoll::EventFlags::IN | epoll::EventFlags::ET);
    for waits in [level, edge, Waits::Poll, Waits::Accept] {
        Host::with(move |host| {
            let mut group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1, 1]);
            // All to slot 1, which accepts nothing.
            let mut pass = |state| {
                group.steering.set_state(0, state).unwrap();
                group.steering.publish().unwrap();
            };
            pass(SlotState::Draining);
            let clients: Vec<_> =
                (0..10).map(|_| TcpStream::connect(group.address).unwrap()).collect();
            pass(SlotState::Live);
            assert_eq!(group.selected(), [0, 10]);

            let (thread, accepted) = worker(waits, group.sockets[0].take().unwrap());
            naps(thread);
            group.sockets[1] = None;
            // Many a kernel wakes it by itself. What is more is balancer's doing.
            let before = naps(thread);
            group.steering.set_state(1, SlotState::Vacant).unwrap();
            wait_until("it has been woken", || naps(thread) > before);
            for number in 0..clients.len() {
                let one = accepted.recv_timeout(PATIENCE);
                assert!(one.is_ok(), "{waits:?}: it sleeps after {number} of them");
            }
            // Nor did it end the socket.
            let _more = TcpStream::connect(group.address).unwrap();
            accepted.recv_timeout(PATIENCE).unwrap();
        });
    }
}

#[test]
fn requests_queued_at_a_killed_worker_are_answered_with_no_connection_after_them() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        requests(running.address(), 2);
        let [victim, heir] = running.workers() else { panic!("two workers") };
        send(*victim, Signal::STOP);
        let mut clients: Vec<TcpStream> =
            (0..20).map(|_| connect(running.address()).unwrap()).collect();
        // By turns, half of them are the other's: it answers them, and then has nothing to do.
        wait_until("half are answered", || clients.iter().filter(|c| is_answered(c)).count() == 10);
        clients.retain(|client| !is_answered(client));
        naps(*heir);
        let process = watch(*victim);
        send(*victim, Signal::KILL);
        wait_until_gone(&process, "a worker");
        for client in clients {
            assert_eq!(receive(client).unwrap().pid, *heir);
        }
        running.stop();
    });
}

/// Whether something came back.
fn is_answered(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let answered = client.peek(&mut [0]).is_ok();
    client.set_nonblocking(false).unwrap();
    answered
}
