//! A server that steers its own sockets with the library.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

use balancer_steering::{
    Group, listen, metric::Metric, options::PolicyOptions, policy::Policy, snapshot::MemberState,
    weight::Weight,
};
use harness::{
    Host,
    group::PATIENT,
    running::{send, wait_until},
};
use rustix::process::Signal;

const ADDRESS: &str = "127.0.0.1:8000";

fn address() -> SocketAddr {
    ADDRESS.parse().unwrap()
}

fn weight(number: u16) -> Weight {
    number.to_string().parse().unwrap()
}

/// Opens or makes the group `web`, through a socket.
fn group(host: &Host, socket: &impl AsFd, policy: Policy) -> Group {
    let builder = Group::builder("web").policy(policy).options(PATIENT).bpffs(host.bpffs());
    builder.open_or_create(socket).unwrap()
}

/// Connections that each member was given, by slot.
fn selected(group: &Group) -> Vec<u64> {
    let snapshot = group.snapshot().unwrap().unwrap();
    snapshot.members.iter().map(|member| member.tally.selected).collect()
}

fn connect(count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(ADDRESS).unwrap()).collect()
}

#[test]
fn sockets_of_one_process_share_by_their_weights() {
    Host::with(|host| {
        let listeners: Vec<_> = (0..3).map(|_| listen(address()).unwrap()).collect();
        let group = group(host, &listeners[0], Policy::Weighted);
        let weights = [5, 3, 2].map(weight);
        let members: Vec<_> =
            listeners.iter().zip(weights).map(|(l, w)| group.join(l, w).unwrap()).collect();
        assert_eq!(
            members.iter().map(|m| m.slot()).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2)]
        );
        let _clients = connect(100);
        assert_eq!(selected(&group), [50, 30, 20]);
        // The command line knows it as any other group.
        assert_eq!(host.status()["members"].as_array().unwrap().len(), 3);
        members[0].set_weight(weight(2)).unwrap();
        let _more = connect(70);
        assert_eq!(selected(&group), [70, 60, 40]);
        drop(members);
        assert!(host.is_clean());
    });
}

#[test]
fn a_member_that_leaves_gets_nothing_more_and_the_last_one_ends_the_group() {
    Host::with(|host| {
        let listeners = [listen(address()).unwrap(), listen(address()).unwrap()];
        let group = group(host, &listeners[0], Policy::RoundRobin);
        let [first, second] =
            [0, 1].map(|i: usize| group.join(&listeners[i], Weight::ONE).unwrap());
        let mut clients = connect(10);
        assert_eq!(selected(&group), [5, 5]);
        drop(first);
        clients.extend(connect(10));
        // Its listener is there still, and was passed over.
        assert_eq!(selected(&group), [15]);
        assert_eq!(accepted(&listeners[0]), 5);
        second.leave().unwrap();
        assert!(host.is_clean());
        clients.extend(connect(20));
        assert_eq!(accepted(&listeners[0]) + accepted(&listeners[1]), 15 + 20);
        // And begins anew with the next that joins.
        let again = group.join(&listeners[1], Weight::ONE).unwrap();
        clients.extend(connect(7));
        assert_eq!((again.slot(), selected(&group)), (Some(0), vec![7]));
    });
}

/// Connections that wait in a queue, taken out of it.
fn accepted(listener: &TcpListener) -> usize {
    listener.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| listener.accept().ok()).count()
}

#[test]
fn a_server_that_cannot_steer_goes_on_with_the_reason_in_hand() {
    Host::with(|_| {
        let listeners = [listen(address()).unwrap(), listen(address()).unwrap()];
        let builder = Group::builder("web").bpffs("/nowhere");
        let refused = builder.clone().open_or_create(&listeners[0]).err().unwrap();
        let group = builder.open_or_plain(&listeners[0]);
        let reason = group.not_steered().unwrap();
        assert_eq!(reason.to_string(), refused.to_string());
        assert!(reason.to_string().contains("/nowhere"), "{reason:#}");
        let members = [0, 1].map(|i: usize| group.join(&listeners[i], Weight::ONE).unwrap());
        assert!(members.iter().all(|member| member.slot().is_none()));
        members[0].report(7);
        assert!(group.snapshot().unwrap().is_none());
        let _clients = connect(20);
        assert_eq!(accepted(&listeners[0]) + accepted(&listeners[1]), 20);
    });
}

#[test]
fn a_socket_that_shares_its_address_with_none_is_refused_as_such() {
    Host::with(|host| {
        let alone = TcpListener::bind(ADDRESS).unwrap();
        let refused =
            Group::builder("web").bpffs(host.bpffs()).open_or_create(&alone).err().unwrap();
        assert!(refused.to_string().contains("SO_REUSEPORT"), "{refused:#}");
        assert!(host.is_clean());
    });
}

#[test]
fn listeners_of_std_socket2_and_tokio_join_alike() {
    Host::with(|host| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let plain = listen(address()).unwrap();
        let raw = socket2::Socket::from(listen(address()).unwrap());
        let tokio = listen(address()).unwrap();
        tokio.set_nonblocking(true).unwrap();
        let tokio = tokio::net::TcpListener::from_std(tokio).unwrap();
        let group = group(host, &tokio, Policy::RoundRobin);
        let _members = [
            group.join(&plain, Weight::ONE).unwrap(),
            group.join(&raw, Weight::ONE).unwrap(),
            group.join(&tokio, Weight::ONE).unwrap(),
        ];
        let _clients = connect(30);
        assert_eq!(selected(&group), [10; 3]);
    });
}

#[test]
fn a_policy_is_switched_and_a_load_that_is_reported_decides() {
    Host::with(|host| {
        let listeners = [listen(address()).unwrap(), listen(address()).unwrap()];
        let group = group(host, &listeners[0], Policy::RoundRobin);
        let members = [0, 1].map(|i: usize| group.join(&listeners[i], Weight::ONE).unwrap());
        let reported = PolicyOptions { load: Metric::Reported, ..PATIENT };
        group.set_policy(Policy::LeastConnections, reported).unwrap();
        members[0].report(10);
        let _clients = connect(8);
        assert_eq!(selected(&group), [0, 8]);
        members[1].report(20);
        let _more = connect(8);
        assert_eq!(selected(&group), [8, 8]);
    });
}

#[test]
fn whoever_opens_a_group_that_is_there_leaves_its_policy_alone() {
    Host::with(|host| {
        let listeners = [listen(address()).unwrap(), listen(address()).unwrap()];
        let first = group(host, &listeners[0], Policy::RoundRobin);
        let _member = first.join(&listeners[0], Weight::ONE).unwrap();
        host.succeed(&["policy", "random"]);
        let second = group(host, &listeners[1], Policy::Weighted);
        let _other = second.join(&listeners[1], Weight::ONE).unwrap();
        assert_eq!(second.snapshot().unwrap().unwrap().policy, Policy::Random);
    });
}

/// The example of the library: a listener for each of its threads.
struct Example(Child);

impl Example {
    fn start(host: &Host, threads: usize) -> Self {
        let program = harness::host::balancer().with_file_name("examples").join("threads");
        assert!(program.exists(), "{} is not built; run `cargo xtask test`", program.display());
        let mut example = Command::new(program);
        example.args([ADDRESS, &threads.to_string()]).arg(host.bpffs());
        let mut child = example.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(
            lines.take(threads).filter(|line| line.as_ref().unwrap().contains("Some")).count(),
            threads
        );
        Self(child)
    }

    fn end(mut self, signal: Signal) {
        send(self.0.id(), signal);
        self.0.wait().unwrap();
    }
}

/// The slot that answers.
fn ask(mut stream: &TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().last().unwrap().to_owned()
}

#[test]
fn a_server_with_a_listener_a_thread_is_steered_by_what_is_open() {
    Host::with(|host| {
        let example = Example::start(host, 4);
        let status = host.status();
        assert_eq!(
            (&status["policy"], status["members"].as_array().unwrap().len()),
            (&"least-connections".into(), 4)
        );
        let kept = connect(40);
        wait_until("all are established", || {
            let status = host.status();
            let members = status["members"].as_array().unwrap();
            members.iter().all(|member| member["open"] == 10)
        });
        assert!(kept.iter().all(|stream| ask(stream).starts_with("slot ")));
        example.end(Signal::TERM);
        assert!(host.is_clean());
    });
}

#[test]
fn what_a_killed_process_leaves_is_taken_over_by_the_next() {
    Host::with(|host| {
        Example::start(host, 3).end(Signal::KILL);
        assert!(!host.is_clean());
        let listener = listen(address()).unwrap();
        let group = group(host, &listener, Policy::RoundRobin);
        let member = group.join(&listener, Weight::ONE).unwrap();
        let snapshot = group.snapshot().unwrap().unwrap();
        let states: Vec<_> = snapshot.members.iter().map(|member| member.state).collect();
        assert_eq!(states, [MemberState::Live]);
        let _clients = connect(5);
        assert_eq!(selected(&group), [5]);
        drop(member);
        assert!(host.is_clean());
    });
}
