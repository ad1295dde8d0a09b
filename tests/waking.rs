//! Who gets a dead worker's connections is woken: it waits for connections, none comes after those,
//! and it takes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

use std::{
    fs,
    net::TcpStream,
    os::fd::AsFd as _,
    sync::mpsc::{Receiver, channel},
    thread,
};

use balancer::{group::Protocol, policy::Policy};
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
    /// Accepts so many connections.
    fn serve(self, listener: &Socket, count: usize) {
        listener.set_nonblocking(!matches!(self, Self::Accept)).unwrap();
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        if let Self::Epoll(flags) = self {
            epoll::add(&set, listener, epoll::EventData::new_u64(0), flags).unwrap();
        }
        let mut accepted = 0;
        while accepted < count {
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
            // One that may block takes one at a time.
            let most = if matches!(self, Self::Accept) { 1 } else { count - accepted };
            accepted += (0..most).map_while(|_| listener.accept().ok()).count();
        }
    }
}

/// A worker that says which thread it is, and when it has served all.
fn worker(waits: Waits, listener: Socket, count: usize) -> (i32, Receiver<()>) {
    let (thread_of, thread) = channel();
    let (done, is_done) = channel();
    thread::spawn(move || {
        thread_of.send(gettid().as_raw_nonzero().get()).unwrap();
        waits.serve(&listener, count);
        let _ = done.send(());
    });
    (thread.recv().unwrap(), is_done)
}

/// Waits until a thread or process sleeps.
fn wait_until_asleep(task: i32) {
    wait_until("a worker sleeps", || {
        let stat = fs::read_to_string(format!("/proc/{task}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('S')
    });
}

#[test]
fn a_worker_that_waits_takes_what_migrates_to_it_however_it_waits() {
    let level = Waits::Epoll(epoll::EventFlags::IN);
    let edge = Waits::Epoll(epoll::EventFlags::IN | epoll::EventFlags::ET);
    for waits in [level, edge, Waits::Poll, Waits::Accept] {
        Host::with(move |host| {
            let mut group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1, 1]);
            // All to slot 1, which accepts nothing.
            let all = |group: &mut TestGroup, state| {
                group.steering.set_state(0, state).unwrap();
                group.steering.publish().unwrap();
            };
            all(&mut group, balancer_ebpf::record::SlotState::Draining);
            let _clients = group.connect(10);
            all(&mut group, balancer_ebpf::record::SlotState::Live);
            assert_eq!(group.selected(), [0, 10]);

            let listener = group.sockets[0].take().unwrap();
            let (thread, is_done) = worker(waits, listener, 10);
            wait_until_asleep(thread);
            group.sockets[1] = None;
            let woken = is_done.recv_timeout(PATIENCE / 4);
            assert!(woken.is_ok(), "{waits:?}: it sleeps, though connections wait");
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
        wait_until_asleep(i32::try_from(*heir).unwrap());
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
