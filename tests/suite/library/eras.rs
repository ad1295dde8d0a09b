//! Blocks of an experiment: answers on connections that were established in the block are counted apart from
//! those on earlier ones, and all of them together as ever.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process,
};

use balancer_steering::{
    group::Protocol,
    policy::Policy,
    process::Identity,
    requests::Requests,
    socket,
    steering::{Experiment, Observation, Store},
};
use harness::{Host, TestGroup, needs_kernel};
use socket2::Socket;

/// A group in an experiment, with requests observed.
struct Trial {
    group: TestGroup,
    experiment: Option<Experiment>,
    _observation: Observation,
}

/// A connection: the client's end, and the worker's.
struct Ends(TcpStream, TcpStream);

impl Trial {
    /// Of one member; `None` if the kernel cannot.
    fn begin(host: &Host) -> Option<Self> {
        if !needs_kernel(6, 3) {
            return None;
        }
        let group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1]);
        let observation = Store::at(host.bpffs()).observe().unwrap();
        let mut trial = Self { group, experiment: None, _observation: observation };
        trial.experiment();
        Some(trial)
    }

    fn experiment(&mut self) {
        let own = Identity::of(process::id()).unwrap();
        self.experiment = Some(self.group.steering.begin_experiment(own).unwrap());
    }

    fn end(&mut self) {
        let experiment = self.experiment.take().unwrap();
        assert!(experiment.end(&mut self.group.steering).unwrap());
    }

    /// Begins a block.
    fn block(&self) {
        let experiment = self.experiment.as_ref().unwrap();
        assert!(experiment.tell_apart(&self.group.steering).unwrap());
    }

    /// Connections to all members in turn.
    fn connect(&self) -> Vec<Ends> {
        let ends = (0..self.group.sockets.len()).map(|_| {
            let client = self.group.connect(1).remove(0);
            let mut waiting = (0..self.group.sockets.len()).map(|slot| self.group.accept_all(slot));
            let worker: Socket = waiting.find_map(|mut accepted| accepted.pop()).unwrap();
            worker.set_nonblocking(false).unwrap();
            Ends(client, worker.into())
        });
        ends.collect()
    }

    /// Answers so far of each member: all, and those that are told apart.
    fn answers(&self) -> Vec<(u64, u64)> {
        let requests = self.group.steering.requests().unwrap().unwrap();
        let of = |member: &Requests| {
            let reads = (member.to_read.count(), member.apart_to_read.count());
            let answers = (member.to_answer.count(), member.apart_to_answer.count());
            assert_eq!(reads, answers, "each request is read once");
            answers
        };
        requests.iter().map(of).collect()
    }
}

/// A request and its answer on each.
fn ask(connections: &mut [Ends]) {
    for Ends(client, worker) in connections {
        client.write_all(b"some").unwrap();
        worker.read_exact(&mut [0; 4]).unwrap();
        worker.write_all(b"some").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
    }
}

#[test]
fn answers_on_connections_of_an_earlier_block_are_not_among_those_of_this_one() {
    Host::with(|host| {
        let Some(trial) = Trial::begin(host) else { return };
        let mut before = trial.connect();
        ask(&mut before);
        assert_eq!(trial.answers(), [(1, 0)], "no block has begun");
        trial.block();
        let mut first = trial.connect();
        ask(&mut before);
        ask(&mut first);
        ask(&mut first);
        assert_eq!(trial.answers(), [(4, 2)], "two on its own, and one on an earlier one");
        trial.block();
        let mut second = trial.connect();
        ask(&mut before);
        ask(&mut first);
        ask(&mut second);
        assert_eq!(trial.answers(), [(7, 3)], "one more on its own");
    });
}

#[test]
fn between_experiments_nothing_is_told_apart_and_what_came_then_is_of_no_later_block() {
    Host::with(|host| {
        let Some(mut trial) = Trial::begin(host) else { return };
        trial.block();
        let mut old = trial.connect();
        trial.end();
        let mut between = trial.connect();
        ask(&mut old);
        ask(&mut between);
        assert_eq!(trial.answers(), [(2, 0)]);
        trial.experiment();
        trial.block();
        ask(&mut old);
        ask(&mut between);
        ask(&mut trial.connect());
        assert_eq!(trial.answers(), [(5, 1)]);
    });
}

#[test]
fn a_member_that_joins_within_a_block_is_in_it() {
    Host::with(|host| {
        let Some(mut trial) = Trial::begin(host) else { return };
        trial.block();
        let socket = socket::bind(trial.group.address).unwrap();
        socket::listen(&socket, trial.group.address).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(trial.group.seat(&socket), 1);
        trial.group.sockets.push(Some(socket));
        ask(&mut trial.connect());
        assert_eq!(trial.answers(), [(1, 1), (1, 1)]);
    });
}
