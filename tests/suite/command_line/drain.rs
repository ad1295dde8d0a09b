//! `drain` and `resume`: who gets nothing new, who gets it instead, and when nothing is left.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
};

use balancer_common::record::SlotState;
use balancer_steering::{group::Protocol, policy::Policy};
use harness::{
    Answer, Host, TestGroup,
    client::{connect, receive, requests},
    group::PATIENT,
    running::{send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;

fn answered_by(answers: &[Answer], pid: u32) -> usize {
    answers.iter().filter(|answer| answer.pid == pid).count()
}

fn state_of(host: &Host, pid: u32) -> String {
    let status = host.status();
    let member = status["members"].as_array().unwrap().iter().find(|m| m["pid"] == pid).unwrap();
    member["state"].as_str().unwrap().to_owned()
}

/// A connection that this worker has accepted and keeps open.
fn held_by(address: SocketAddr, pid: u32) -> TcpStream {
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"]\n") {
            stream.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        if String::from_utf8(text).unwrap().ends_with(&format!("[{pid}]\n")) {
            return stream;
        }
    }
}

/// `balancer drain --wait` that has something to wait for: it has said so.
struct Waiting {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    seen: String,
}

impl Waiting {
    fn start(host: &Host, pid: u32, args: &[&str]) -> Self {
        let pid = pid.to_string();
        let args = [&["drain", "--wait", "--idle-grace", "off", &pid], args].concat();
        let mut child =
            host.balancer(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut waiting = Self { child, lines, seen: String::new() };
        waiting.wait_for("connections left: ");
        waiting
    }

    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            assert!(
                self.lines.read_line(&mut self.seen).unwrap() > 0,
                "no {text:?}: {}",
                self.seen
            );
        }
    }

    /// All it printed; it ended well.
    fn finished(mut self) -> String {
        self.lines.read_to_string(&mut self.seen).unwrap();
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        self.seen
    }
}

#[test]
fn a_drained_worker_gets_nothing_new_and_the_others_their_exact_shares() {
    Host::with(|host| {
        let weights = ["--weights", "5,3,2", "--policy", "weighted"];
        let running = host.run(&weights);
        let [first, second, third] = [0, 1, 2].map(|slot| {
            u32::try_from(host.status()["members"][slot]["pid"].as_u64().unwrap()).unwrap()
        });
        assert!(host.succeed(&["drain", &first.to_string()]).contains("is draining"));
        assert_eq!(state_of(host, first), "draining");
        let answers = requests(running.address(), 100);
        let counts = [first, second, third].map(|pid| answered_by(&answers, pid));
        assert_eq!(counts, [0, 60, 40]);

        host.succeed(&["resume", &first.to_string()]);
        assert_eq!(state_of(host, first), "live");
        let answers = requests(running.address(), 100);
        let counts = [first, second, third].map(|pid| answered_by(&answers, pid));
        assert_eq!(counts, [50, 30, 20]);
        assert_eq!(host.status()["fallback"], 0);
        running.stop();
    });
}

#[test]
fn a_worker_stays_drained_over_policies_and_weights() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3"]);
        let drained = running.workers()[0];
        host.succeed(&["drain", &drained.to_string()]);
        for policy in ["hash", "weighted", "random", "round-robin"] {
            host.succeed(&["policy", policy]);
            host.succeed(&["weight", &format!("{drained}=900")]);
            assert_eq!(answered_by(&requests(running.address(), 30), drained), 0, "{policy}");
        }
        assert_eq!(state_of(host, drained), "draining");
        running.stop();
    });
}

#[test]
fn the_successor_of_a_drained_worker_is_live() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        let drained = running.workers()[0];
        host.succeed(&["drain", &drained.to_string()]);
        send(drained, Signal::KILL);
        running.wait_for("is back as PID");
        let status = host.status();
        let members = status["members"].as_array().unwrap();
        assert!(members.len() == 2 && members.iter().all(|m| m["state"] == "live"), "{status}");
        running.stop();
    });
}

#[test]
fn no_policy_lets_a_drained_member_have_anything_while_one_other_lives() {
    Host::with(|host| {
        // Of ten, eight are dead in the table, as between a death and its discovery.
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::Hash, &[1; 10]);
        group.steering.set_state(0, SlotState::Draining).unwrap();
        for socket in &mut group.sockets[1..9] {
            *socket = None;
        }
        for policy in [
            Policy::Hash,
            Policy::RoundRobin,
            Policy::Weighted,
            Policy::Random,
            Policy::Sticky,
            Policy::Cpu,
        ] {
            group.steering.set_policy(policy, PATIENT).unwrap();
            let _clients = group.connect(50);
            assert!(group.accept_all(0).is_empty(), "{policy:?}");
            assert_eq!(group.accept_all(9).len(), 50, "{policy:?}");
        }
        assert_eq!((group.snapshot().fallback, group.snapshot().errors), (0, 0));
    });
}

#[test]
fn rather_than_refuse_a_client_the_only_socket_left_takes_it_though_drained() {
    Host::with(|host| {
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1, 1]);
        group.steering.set_state(0, SlotState::Draining).unwrap();
        group.steering.publish().unwrap();
        group.sockets[1] = None;
        let _clients = group.connect(5);
        assert_eq!((group.accept_all(0).len(), group.snapshot().fallback), (5, 5));
    });
}

#[test]
fn what_a_dying_worker_had_queued_does_not_go_to_a_drained_one() {
    Host::with(|host| {
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1, 1, 1]);
        group.steering.set_state(0, SlotState::Draining).unwrap();
        group.steering.publish().unwrap();
        let _clients = group.connect(20);
        group.sockets[1] = None;
        assert_eq!((group.accept_all(0).len(), group.accept_all(2).len()), (0, 20));
    });
}

#[test]
fn the_last_live_worker_is_not_drained() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--name", "web"]);
        let [first, second] = [0, 1].map(|worker| running.workers()[worker].to_string());
        let refusal = host.fail(1, &["drain", &first, &second]);
        assert!(refusal.contains("no other worker is live"), "{refusal}");
        host.succeed(&["drain", &first]);
        let refusal = host.fail(1, &["drain", &second]);
        let remedy = format!("balancer resume --group web {first}");
        assert!(refusal.contains(&remedy), "no {remedy:?} in {refusal}");
        assert_eq!(state_of(host, running.workers()[1]), "live");
        running.stop();
    });
}

#[test]
fn where_the_kernel_chooses_nobody_is_drained_and_who_is_drained_keeps_it_from_choosing() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--policy", "kernel", "--name", "web"]);
        let worker = running.workers()[0].to_string();
        let refusal = host.fail(1, &["drain", &worker]);
        assert!(refusal.contains("balancer policy hash --group web"), "{refusal}");
        host.succeed(&["policy", "hash"]);
        host.succeed(&["drain", &worker]);
        let refusal = host.fail(1, &["policy", "kernel"]);
        let remedy = format!("balancer resume --group web {worker}");
        assert!(refusal.contains(&remedy), "no {remedy:?} in {refusal}");
        assert_eq!(host.status()["policy"], "hash");
        host.succeed(&["resume", &worker]);
        host.succeed(&["policy", "kernel"]);
        running.stop();
    });
}

#[test]
fn detaching_says_who_was_drained() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let worker = running.workers()[0].to_string();
        host.succeed(&["drain", &worker]);
        let output = host.output(&["detach"]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(&format!("PID {worker} was drained")), "{complaint}");
        running.stop();
    });
}

#[test]
fn somebody_who_is_no_worker_is_refused_with_who_is() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        for verb in ["drain", "resume"] {
            let refusal = host.fail(1, &[verb, "1"]);
            assert!(refusal.contains("PID 1 is not a worker"), "{refusal}");
            for worker in running.workers() {
                assert!(refusal.contains(&worker.to_string()), "no {worker} in {refusal}");
            }
        }
        running.stop();
    });
}

#[test]
fn waiting_ends_when_the_last_connection_is_closed() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let worker = running.workers()[0];
        let held = held_by(running.address(), worker);
        let mut other = held_by(running.address(), running.workers()[1]);
        let waiting = Waiting::start(host, worker, &[]);
        assert!(waiting.seen.ends_with("left: 1 open, 0 of them busy\n"), "{}", waiting.seen);
        drop(held);
        let text = waiting.finished();
        assert!(text.ends_with(&format!("PID {worker} has no connection left\n")), "{text}");
        // The other's was not waited for.
        other.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        assert!(other.read(&mut [0; 64]).unwrap() > 0);
        running.stop();
    });
}

#[test]
fn waiting_lasts_while_connections_are_queued_or_half_closed() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let worker = running.workers()[0];
        send(worker, Signal::STOP);
        let clients: Vec<TcpStream> = (0..4).map(|_| connect(running.address()).unwrap()).collect();
        // The worker has not seen that its client is done.
        clients.iter().for_each(|client| client.shutdown(std::net::Shutdown::Write).unwrap());
        let waiting = Waiting::start(host, worker, &[]);
        assert!(waiting.seen.ends_with("left: 2 open\n"), "{}", waiting.seen);
        send(worker, Signal::CONT);
        for client in clients {
            receive(client).unwrap();
        }
        waiting.finished();
        running.stop();
    });
}

#[test]
fn waiting_with_nothing_to_wait_for_returns_at_once() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--listen", "[::]:0"]);
        let worker = running.workers()[0].to_string();
        let text = host.succeed(&["drain", "--wait", "--timeout", "1ms", &worker]);
        assert!(text.ends_with("has no connection left\n"), "{text}");
        running.stop();
    });
}

#[test]
fn a_connection_of_an_ipv4_client_of_an_ipv6_socket_is_waited_for() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--listen", "[::]:0"]);
        let address = SocketAddr::from(([127, 0, 0, 1], running.address().port()));
        let held = held_by(address, running.workers()[0]);
        let waiting = Waiting::start(host, running.workers()[0], &[]);
        drop(held);
        waiting.finished();
        running.stop();
    });
}

#[test]
fn waiting_in_vain_ends_with_what_is_left_and_the_worker_stays_drained() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let worker = running.workers()[0];
        let _held = [0; 2].map(|_| held_by(running.address(), worker));
        let args = ["drain", "--wait", "--timeout", "200ms", &worker.to_string()];
        let refusal = host.fail(1, &args);
        assert!(refusal.contains("after 200ms") && refusal.contains("2 open"), "{refusal}");
        assert_eq!(state_of(host, worker), "draining");
        running.stop();
    });
}

#[test]
fn waiting_ends_when_the_worker_does_and_when_it_is_resumed() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3"]);
        let [resumed, killed] = [0, 1].map(|worker| running.workers()[worker]);
        let _held = [resumed, killed].map(|worker| held_by(running.address(), worker));

        let waiting = Waiting::start(host, resumed, &[]);
        host.succeed(&["resume", &resumed.to_string()]);
        let output = waiting.child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains("was resumed meanwhile"), "{complaint}");

        let waiting = Waiting::start(host, killed, &[]);
        send(killed, Signal::KILL);
        waiting.finished();
        running.stop();
    });
}

#[test]
fn a_group_without_its_supervisor_is_drained_all_the_same() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let (address, workers) = (running.address(), running.workers().to_vec());
        running.signal(Signal::KILL);
        running.ended();
        host.succeed(&["drain", "--wait", &workers[0].to_string()]);
        assert_eq!(answered_by(&requests(address, 20), workers[0]), 0);
        for worker in workers {
            let process = watch(worker);
            send(worker, Signal::KILL);
            wait_until_gone(&process, "a worker");
        }
        wait_until("nobody", || requests_are_refused(address));
    });
}

fn requests_are_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}
