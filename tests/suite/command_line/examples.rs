//! The servers of `examples/`, as people have them: steered while they run, unmodified, and exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use balancer_steering::group::own_netns;
use harness::{
    Host, Running,
    host::balancer,
    running::{PATIENCE, send, wait_until},
    there,
};
use rustix::process::Signal;
use tempfile::TempDir;

/// Where they all serve HTTP.
const ADDRESS: &str = "127.0.0.1:8080";

/// And DNS.
const DNS: &str = "127.0.0.1:5300";

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(path)
}

/// Servers that end with the test.
struct Servers(Vec<Child>);

impl Servers {
    fn start(count: usize, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self((0..count).map(|_| command.spawn().unwrap()).collect())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // In order, so that those with workers of their own end them.
        for child in &mut self.0 {
            send(child.id(), Signal::TERM);
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Who answers a request.
fn who() -> io::Result<u32> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let pid = answer.rsplit_once("Server PID: [").and_then(|(_, rest)| rest.split(']').next());
    pid.and_then(|pid| pid.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no answer of a server: {answer:?}")))
}

/// How many of so many requests each answers, fewest first.
fn shares(count: usize) -> Vec<usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        *answers.entry(who().unwrap()).or_insert(0) += 1;
    }
    let mut shares: Vec<usize> = answers.into_values().collect();
    shares.sort_unstable();
    shares
}

/// Waits until so many sockets are in the group on that address.
fn wait_for_sockets(host: &Host, address: &str, protocol: &str, count: usize) {
    let here = own_netns().unwrap();
    wait_until("the servers", || {
        let found = host.succeed(&["groups", "--json"]);
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        found["groups"].as_array().unwrap().iter().any(|group| {
            group["netns"] == here
                && group["address"] == address
                && group["protocol"] == protocol
                && group["sockets"].as_array().unwrap().len() == count
        })
    });
}

#[test]
fn three_go_servers_started_by_hand_get_a_third_each_until_they_are_given_back() {
    if !there("go") {
        return;
    }
    Host::with(|host| {
        let server = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-server");
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&server)
            .arg(".")
            .current_dir(example("go"))
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"))
            .env("GOFLAGS", "-buildvcs=false")
            .status();
        assert!(built.unwrap().success());
        let _servers = Servers::start(3, &mut Command::new(server));
        wait_for_sockets(host, ADDRESS, "tcp", 3);

        let agent = host.attach(&[":8080"]);
        assert_eq!(shares(300), [100, 100, 100]);
        agent.stop();
        // The hash is never as even, but for once in thousands of times.
        assert_ne!(shares(300), [100, 100, 100]);
        assert!(host.is_clean());
    });
}

#[test]
fn one_command_starts_three_python_servers_and_steers_them() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let mut steer = Command::new(example("steer"));
        steer.arg("python").env("BALANCER", balancer()).env("BALANCER_BPFFS", host.bpffs());
        let mut steered = Running::attach(steer);
        // It may have begun before the third one was there.
        wait_until("three members", || host.status()["members"].as_array().unwrap().len() == 3);
        assert_eq!(shares(300), [100, 100, 100]);
        // Not Ctrl-C: a shell that was started with it ignored cannot trap it.
        steered.signal(Signal::TERM);
        steered.wait_for("300 connections");
        assert!(steered.ended().status.success());
        assert!(host.is_clean());
        assert!(TcpStream::connect(ADDRESS).is_err(), "a server is left");
    });
}

#[test]
fn three_gunicorns_started_by_hand_get_a_third_each() {
    if !there("gunicorn") {
        return;
    }
    Host::with(|host| {
        let mut gunicorn = Command::new("gunicorn");
        gunicorn.args(["-c", "gunicorn.conf.py", "app:app"]).current_dir(example("gunicorn"));
        // Nothing is to be written beside the example.
        gunicorn.env("PYTHONDONTWRITEBYTECODE", "1");
        let _servers = Servers::start(3, &mut gunicorn);
        wait_for_sockets(host, ADDRESS, "tcp", 3);
        // The socket is there before the worker that will accept from it.
        wait_until("all workers", || {
            let answers: BTreeSet<u32> = (0..60).map(|_| who().unwrap()).collect();
            answers.len() == 3
        });
        let agent = host.attach(&[":8080"]);
        assert_eq!(shares(300), [100, 100, 100]);
        agent.stop();
    });
}

#[test]
fn a_dns_server_of_three_processes_answers_a_third_of_the_queries_with_each() {
    if !there("nsd") {
        return;
    }
    Host::with(|host| {
        let pid = TempDir::new().unwrap();
        let mut nsd = Command::new("nsd");
        nsd.args(["-d", "-c", "nsd.conf", "-P"]).arg(pid.path().join("pid"));
        nsd.current_dir(example("nsd"));
        let _servers = Servers::start(1, &mut nsd);
        wait_for_sockets(host, DNS, "udp", 3);
        let agent = host.attach(&[":5300", "--udp", "--flow", "none"]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for number in 0..300u16 {
            client.send_to(&query(number), DNS).unwrap();
            let mut answer = [0; 512];
            let length = client.recv(&mut answer).unwrap();
            assert_eq!(answer[..2], number.to_be_bytes());
            // www.example.test is 192.0.2.1.
            assert!(answer[..length].windows(4).any(|octets| octets == [192, 0, 2, 1]));
        }
        let status = host.status();
        let members = status["members"].as_array().unwrap();
        let selected: Vec<u64> = members.iter().map(|m| m["selected"].as_u64().unwrap()).collect();
        assert_eq!(selected, [100, 100, 100]);
        assert_eq!(status["fallback"], 0);
        agent.stop();
    });
}

/// Asks for the address of www.example.test.
fn query(number: u16) -> Vec<u8> {
    let mut query = number.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend(b"\x03www\x07example\x04test\0");
    query.extend([0, 1, 0, 1]);
    query
}

/// nginx in the foreground, from a directory of its own.
struct Nginx {
    servers: Servers,
    _prefix: TempDir,
}

impl Nginx {
    fn start(host: &Host) -> Self {
        let prefix = TempDir::new().unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(prefix.path()).arg("-c").arg(example("nginx/nginx.conf"));
        let servers = Servers::start(1, &mut nginx);
        wait_for_sockets(host, ADDRESS, "tcp", 4);
        let nginx = Self { servers, _prefix: prefix };
        wait_until("four workers", || nginx.workers().len() == 4);
        nginx
    }

    fn master(&self) -> u32 {
        self.servers.0[0].id()
    }

    /// Its children.
    fn workers(&self) -> Vec<u32> {
        let master = self.master();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"));
        children.unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// As `nginx -s reload`; waits until there are new workers and no old ones.
    fn reload(&self) {
        let old = self.workers();
        send(self.master(), Signal::HUP);
        wait_until("new workers", || {
            let now = self.workers();
            now.len() == 4 && now.iter().all(|pid| !old.contains(pid))
        });
    }
}

#[test]
fn nginx_workers_get_what_round_robin_and_weights_say() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let nginx = Nginx::start(host);
        let agent = host.attach(&[":8080"]);
        assert_eq!(shares(400), [100, 100, 100, 100]);
        host.succeed(&["policy", "weighted"]);
        let weights: Vec<String> =
            nginx.workers().iter().zip([1, 2, 3, 4]).map(|(pid, w)| format!("{pid}={w}")).collect();
        let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
        host.succeed(&[&["weight"], &weights[..]].concat());
        assert_eq!(shares(100), [10, 20, 30, 40]);
        agent.stop();
        assert!(host.is_clean());
    });
}

/// Requests that fail while nginx reloads, of how many.
fn lost_in_reload(nginx: &Nginx) -> (usize, usize) {
    let (lost, made, through) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !through.load(Ordering::Relaxed) {
                    lost.fetch_add(usize::from(who().is_err()), Ordering::Relaxed);
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let so_many = |count| {
            let before = made.load(Ordering::Relaxed);
            wait_until("load", || made.load(Ordering::Relaxed) > before + count);
        };
        for _ in 0..3 {
            so_many(200);
            nginx.reload();
        }
        so_many(200);
        through.store(true, Ordering::Relaxed);
    });
    (lost.into_inner(), made.into_inner())
}

#[test]
fn nginx_reloads_under_load_without_losing_more_than_it_does_alone() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let nginx = Nginx::start(host);
        let (alone, of) = lost_in_reload(&nginx);
        let agent = host.attach(&[":8080"]);
        let (steered, of_steered) = lost_in_reload(&nginx);
        // Shown with --nocapture.
        println!("lost in three reloads: alone {alone} of {of}, steered {steered} of {of_steered}");
        assert!(steered <= alone, "{steered} of {of_steered}; alone {alone} of {of}");

        // The new workers are steered as the old ones were.
        assert_eq!(shares(400), [100, 100, 100, 100]);
        wait_until("the new workers in the group's list", || {
            let status = host.status();
            let members = status["members"].as_array().unwrap();
            let mut pids: Vec<u64> = members.iter().map(|m| m["pid"].as_u64().unwrap()).collect();
            pids.sort_unstable();
            pids == nginx.workers().into_iter().map(u64::from).collect::<Vec<_>>()
        });
        host.succeed(&["policy", "random"]);
        agent.stop();
        assert!(host.is_clean());
    });
}
