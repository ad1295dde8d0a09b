//! A service: one server with several addresses, which is several groups, steered as one.

mod attaching;
mod load;
mod refusing;
mod verbs;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use balancer_steering::group::own_netns;

use harness::{
    Host,
    running::{send, wait_until},
    sockets::{Opening, tcp, udp},
};
use rustix::process::Signal;
use serde_json::Value;
use socket2::Socket;
use tempfile::TempDir;

/// nginx with three workers, each with a socket of its own for both families of two ports.
struct Nginx(TempDir);

impl Nginx {
    const CONFIGURATION: &str = "\
        worker_processes 3;\n\
        pid nginx.pid;\n\
        error_log error.log;\n\
        events {}\n\
        http {\n\
            access_log off;\n\
            client_body_temp_path a; proxy_temp_path a; fastcgi_temp_path a; uwsgi_temp_path a; scgi_temp_path a;\n\
            server {\n\
                listen 8000 reuseport;\n\
                listen [::]:8000 reuseport ipv6only=on;\n\
                listen 8443 reuseport;\n\
                location / { return 200 \"$pid\"; }\n\
            }\n\
        }\n";

    /// The addresses that it serves, as one connects to them, and the groups' names.
    const ADDRESSES: [(&str, &str); 3] = [
        ("127.0.0.1:8000", "tcp-8000"),
        ("[::1]:8000", "tcp-8000-ipv6"),
        ("127.0.0.1:8443", "tcp-8443"),
    ];

    fn start(host: &Host) -> Self {
        let nginx = Self(tempfile::tempdir().unwrap());
        std::fs::write(nginx.0.path().join("nginx.conf"), Self::CONFIGURATION).unwrap();
        nginx.run(&[]);
        // Until its workers are there, the master is all that has the sockets.
        wait_until("the workers", || accepting(host).iter().all(|workers| workers.len() == 3));
        nginx
    }

    fn run(&self, args: &[&str]) {
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(self.0.path()).args(["-c", "nginx.conf", "-e", "error.log"]).args(args);
        let output = nginx.output().unwrap();
        assert!(output.status.success(), "nginx {args:?}: {output:?}");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.0.path().join("nginx.pid")).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse() {
            send(pid, Signal::TERM);
        }
    }
}

/// The PIDs that accept in each group of this host, steered or not.
fn accepting(host: &Host) -> Vec<BTreeSet<u64>> {
    let netns = own_netns().unwrap();
    let found: Value = serde_json::from_str(&host.succeed(&["groups", "--json"])).unwrap();
    let groups = found["groups"].as_array().unwrap().iter().filter(|group| group["netns"] == netns);
    let workers = |group: &Value| {
        let sockets = group["sockets"].as_array().unwrap().iter();
        sockets.filter_map(|socket| socket["worker"]["pid"].as_u64()).collect()
    };
    groups.map(workers).collect()
}

/// Groups of one port, of both families and protocols, one socket each.
fn sockets() -> Vec<Socket> {
    let ipv6 = |address| Opening::tcp(address).with(|s| s.set_only_v6(true).unwrap()).at(address);
    let mut sockets = vec![udp("127.0.0.1:8000"), ipv6("[::]:8000")];
    sockets.extend(["0.0.0.0:8000", "127.0.0.1:8000"].map(tcp));
    sockets
}

/// The names of all groups that are steered.
fn names(host: &Host) -> BTreeSet<String> {
    let pins = std::fs::read_dir(host.bpffs().join("balancer"));
    let pins = pins.into_iter().flatten().flatten();
    pins.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// `balancer status --json` of one group.
fn status_of(host: &Host, group: &str) -> Value {
    serde_json::from_str(&host.succeed(&["status", "--json", "--group", group])).unwrap()
}

/// `balancer status --json` of the service `web`.
fn service(host: &Host) -> Value {
    serde_json::from_str(&host.succeed(&["status", "--json", "--service", "web"])).unwrap()
}

/// The PIDs of its workers.
fn workers(host: &Host) -> Vec<u32> {
    let service = service(host);
    let workers = service["workers"].as_array().unwrap().iter();
    workers.map(|worker| worker["pid"].as_u64().unwrap().try_into().unwrap()).collect()
}

/// How often each PID was chosen in a group.
fn selected(host: &Host, group: &str) -> BTreeMap<u32, u64> {
    let status = status_of(host, group);
    let members = status["members"].as_array().unwrap().iter();
    let number = |member: &Value, field: &str| member[field].as_u64().unwrap();
    let mut all = BTreeMap::new();
    for member in members {
        *all.entry(number(member, "pid").try_into().unwrap()).or_default() +=
            number(member, "selected");
    }
    all
}

/// The state of each member of a group, by slot.
fn states(host: &Host, group: &str) -> Vec<String> {
    let status = status_of(host, group);
    let members = status["members"].as_array().unwrap().iter();
    members.map(|member| member["state"].as_str().unwrap().to_owned()).collect()
}
