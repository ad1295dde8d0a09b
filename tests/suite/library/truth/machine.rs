//! The network of a test's host, and what its kernel counts.

use std::{
    fs,
    process::Command,
    sync::mpsc::{Sender, channel},
    thread,
};

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

/// Runs a command line of words without spaces.
pub fn sh(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    assert!(command.args(words).status().unwrap().success(), "{line}");
}

/// Sets a `sysctl`, by its path.
pub fn sysctl(path: &str, value: &str) {
    fs::write(format!("/proc/sys/{path}"), value).expect(path);
}

/// A counter of this network namespace, such as `ListenDrops` of `TcpExt` in `netstat`, or
/// `RcvbufErrors` of `Udp` in `snmp` and of `Udp6` in `snmp6`.
pub fn counter(file: &str, table: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    if file == "snmp6" {
        let mut lines =
            text.lines().filter_map(|line| line.strip_prefix(table)?.strip_prefix(name));
        return lines.next().expect(name).trim().parse().unwrap();
    }
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table)?.strip_prefix(": "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|known| known == name).expect(name);
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// SYNs and ACKs that were dropped because a listener's queue was full, or for another reason.
pub fn dropped() -> (u64, u64) {
    let of = |name| counter("netstat", "TcpExt", name);
    (of("ListenOverflows"), of("ListenDrops"))
}

/// Packets pass loopback one after another, by a timer: so they arrive while something else is under way.
pub fn delay_loopback(rate: &str) {
    sh(&format!("tc qdisc add dev lo root tbf rate {rate} burst 1600 latency 30s"));
}

type Job = Box<dyn FnOnce() + Send>;

/// Another machine: a network namespace of its own, reached by `there` here and `here` there.
pub struct Neighbour(Sender<Job>);

impl Neighbour {
    /// Connects it; neither side has an address yet.
    pub fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        thread::spawn(move || todo.into_iter().for_each(|job| job()));
        let neighbour = Self(jobs);
        let thread = neighbour.run(|| {
            // SAFETY: the flag leaves alone the table of descriptors, which other code may rely on.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            gettid()
        });
        let peer = thread.as_raw_nonzero();
        sh(&format!("ip link add there type veth peer name here netns {peer}"));
        sh("ip link set there up");
        neighbour.run(|| sh("ip link set here up"));
        neighbour
    }

    /// Does something there. Sockets that are opened there stay there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        let job = move || drop(answer.send(job()));
        self.0.send(Box::new(job)).expect("a thread that has not failed");
        answered.recv().expect("a thread that has not failed")
    }
}
