//! `balancer groups` finds what shares an address, wherever it is and whoever started it.

use std::{
    fs::read_link,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
};

use balancer_steering::group::own_netns;
use harness::{
    Host, lacking,
    running::{Running, wait_until, wait_until_gone},
    sockets::{Opening, tcp, udp},
    there,
};
use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

fn inode(socket: &Socket) -> u64 {
    rustix::fs::fstat(socket.as_fd()).unwrap().st_ino
}

/// The groups of one namespace, as a command lists them.
fn groups_of(host: &Host, netns: u64, args: &[&str]) -> Vec<Value> {
    let text = host.succeed(&[&["groups", "--json"], args].concat());
    let listing: Value = serde_json::from_str(&text).unwrap();
    let groups = listing["groups"].as_array().unwrap().iter();
    groups.filter(|group| group["netns"] == netns).cloned().collect()
}

/// The groups of this host, found among all of the machine's.
fn groups(host: &Host) -> Vec<Value> {
    groups_of(host, own_netns().unwrap(), &[])
}

/// Protocol, address and number of sockets of each group.
fn outline(groups: &[Value]) -> Vec<String> {
    let line = |group: &Value| {
        let text = |name: &str| group[name].as_str().unwrap().to_owned();
        let sockets = group["sockets"].as_array().unwrap().len();
        format!("{} {} {sockets}", text("protocol"), text("address"))
    };
    groups.iter().map(line).collect()
}

#[test]
fn each_address_of_a_port_is_a_group_of_its_own() {
    Host::with(|host| {
        let only_v6 = |address| {
            Opening::tcp(address).with(|socket| socket.set_only_v6(true).unwrap()).at(address)
        };
        let _sockets = [
            tcp("127.0.0.1:8000"),
            tcp("127.0.0.1:8000"),
            tcp("0.0.0.0:8000"),
            tcp("0.0.0.0:8000"),
            tcp("0.0.0.0:8000"),
            only_v6("[::]:8000"),
            only_v6("[::]:8000"),
            udp("127.0.0.1:8000"),
            udp("127.0.0.1:8000"),
            tcp("[::1]:9000"),
        ];
        let found = groups(host);
        let expected = [
            "tcp 0.0.0.0:8000 3",
            "tcp 127.0.0.1:8000 2",
            "tcp [::]:8000 2",
            "udp 127.0.0.1:8000 2",
            "tcp [::1]:9000 1",
        ];
        assert_eq!(outline(&found), expected);
        let v6only: Vec<bool> = found.iter().map(|group| group["v6only"] == true).collect();
        // The kernel sets it itself where the address is not [::].
        assert_eq!(v6only, [false, false, true, false, true]);
    });
}

#[test]
fn a_device_tells_groups_apart() {
    Host::with(|host| {
        let address = "0.0.0.0:8000";
        let on_lo = || {
            Opening::tcp(address)
                .with(|socket| socket.bind_device(Some(b"lo")).unwrap())
                .at(address)
        };
        let _sockets = [tcp(address), on_lo(), on_lo()];
        let found = groups(host);
        assert_eq!(outline(&found), ["tcp 0.0.0.0:8000 1", "tcp 0.0.0.0:8000 2"]);
        assert_eq!([&found[0]["device"], &found[1]["device"]], [&Value::Null, &json!("lo")]);
        let text = host.succeed(&["groups", "--netns", "/proc/self/ns/net"]);
        assert!(text.contains("0.0.0.0:8000 on lo  tcp"), "{text}");
    });
}

#[test]
fn sockets_that_share_with_nobody_or_are_connected_are_no_group() {
    Host::with(|host| {
        let alone = |opening: Opening, address| {
            opening.with(|socket| socket.set_reuse_port(false).unwrap()).at(address)
        };
        // UDP sockets stand side by side by SO_REUSEADDR too, and make no group then.
        let multicast = |address| {
            Opening::udp(address)
                .with(|socket| {
                    socket.set_reuse_port(false).unwrap();
                    socket.set_reuse_address(true).unwrap();
                })
                .at(address)
        };
        let connected = udp("127.0.0.1:8003");
        connected.connect(&"127.0.0.1:9".parse::<SocketAddr>().unwrap().into()).unwrap();
        let bound = Opening::tcp("127.0.0.1:8004").0;
        bound.bind(&"127.0.0.1:8004".parse::<SocketAddr>().unwrap().into()).unwrap();
        let _sockets = [
            alone(Opening::tcp("127.0.0.1:8001"), "127.0.0.1:8001"),
            alone(Opening::udp("127.0.0.1:8001"), "127.0.0.1:8001"),
            multicast("127.0.0.1:8002"),
            multicast("127.0.0.1:8002"),
            connected,
            bound,
        ];
        assert_eq!(outline(&groups(host)), Vec::<String>::new());
        let text = host.succeed(&["groups", "--netns", "/proc/self/ns/net"]);
        assert!(text.starts_with("no socket listens with SO_REUSEPORT"), "{text}");
    });
}

#[test]
fn a_socket_is_listed_with_its_inode_queue_holder_and_owner() {
    Host::with(|host| {
        let socket = tcp("127.0.0.1:8000");
        let address: SocketAddr = "127.0.0.1:8000".parse().unwrap();
        let _waiting = [(); 3].map(|()| std::net::TcpStream::connect(address).unwrap());
        // A test beside this one that starts a process gives it all descriptors for a moment.
        let mut found = groups(host);
        wait_until("one holder", || {
            found = groups(host);
            found[0]["sockets"][0]["holders"].as_array().unwrap().len() == 1
        });
        assert_eq!(found[0]["uid"], 0);
        let listed = &found[0]["sockets"][0];
        assert_eq!((&listed["inode"], &listed["queue"]), (&json!(inode(&socket)), &json!(3)));
        assert_eq!(listed["worker"]["pid"], std::process::id());
        assert_eq!((&listed["guessed"], &listed["problem"]), (&json!(false), &Value::Null));
    });
}

#[test]
fn an_mptcp_listener_is_listed_as_one_that_cannot_be_steered() {
    Host::with(|host| {
        let address = "127.0.0.1:8000";
        let domain = Domain::IPV4;
        let Ok(socket) = Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP)) else {
            return lacking("kernel with MPTCP");
        };
        socket.set_reuse_port(true).unwrap();
        let _mptcp = Opening(socket).at(address);
        let found = groups(host);
        assert_eq!(found[0]["sockets"][0]["problem"], "mptcp");
        assert_eq!(found[0]["sockets"][0]["worker"]["pid"], std::process::id());
        let text = host.succeed(&["groups", "--netns", "/proc/self/ns/net"]);
        assert!(text.contains("  MPTCP\n") && text.contains("multipathtcp=0"), "{text}");
        // Beside one that speaks plain TCP it is still told which.
        let _plain = tcp(address);
        let found = groups(host);
        let mut problems: Vec<&Value> = found[0]["sockets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|socket| &socket["problem"])
            .collect();
        problems.sort_by_key(|problem| problem.is_null());
        assert_eq!(problems, [&json!("mptcp"), &Value::Null]);
    });
}

#[test]
fn a_group_that_balancer_steers_is_shown_with_its_name_and_workers() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--listen", "127.0.0.1:0", "--name", "web"]);
        let _other = tcp("127.0.0.1:8000");
        let found = groups(host);
        let steered: Vec<(&Value, &Value)> =
            found.iter().map(|group| (&group["address"], &group["steered"])).collect();
        let address = json!(running.address().to_string());
        let mut expected = [(&json!("127.0.0.1:8000"), &Value::Null), (&address, &json!("web"))];
        expected.sort_by_key(|(address, _)| {
            address.as_str().unwrap().parse::<SocketAddr>().unwrap().port()
        });
        assert_eq!(steered, expected);
        let ours = found.iter().find(|group| group["steered"] == "web").unwrap();
        assert_eq!(ours["sockets"][0]["worker"]["command"], "balancer");
        let sockets = ours["sockets"].as_array().unwrap();
        let mut workers: Vec<u64> =
            sockets.iter().map(|socket| socket["worker"]["pid"].as_u64().unwrap()).collect();
        let mut started: Vec<u64> = running.workers().iter().copied().map(u64::from).collect();
        workers.sort_unstable();
        started.sort_unstable();
        assert_eq!(workers, started);
        running.stop();
        assert_eq!(outline(&groups(host)), ["tcp 127.0.0.1:8000 1"]);
    });
}

#[test]
fn pins_whose_sockets_are_gone_do_not_make_anothers_group_look_steered() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1", "--name", "stale"]);
        let address = running.address().to_string();
        harness::running::send(running.pid(), rustix::process::Signal::KILL);
        for worker in running.workers() {
            let process = harness::running::watch(*worker);
            harness::running::send(*worker, rustix::process::Signal::KILL);
            wait_until_gone(&process, "a worker");
        }
        let _taken_over = tcp(&address);
        assert_eq!(host.status()["group"]["address"], json!(address));
        assert_eq!(groups(host)[0]["steered"], Value::Null);
    });
}

#[test]
fn a_namespace_is_looked_into_by_path() {
    Host::with(|host| {
        let _here = tcp("127.0.0.1:8000");
        let (send_place, place) = channel();
        let (leave, stay) = channel::<()>();
        let elsewhere = thread::spawn(move || {
            // SAFETY: the flag leaves alone the table of descriptors, which others rely on.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let _sockets = [tcp("0.0.0.0:8001"), tcp("0.0.0.0:8001"), udp("0.0.0.0:8002")];
            let thread = gettid().as_raw_nonzero();
            let path = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
            send_place.send((path, own_netns().unwrap())).unwrap();
            let _ = stay.recv();
        });
        let (path, netns) = place.recv().unwrap();
        let found = groups_of(host, netns, &["--netns", &path]);
        assert_eq!(outline(&found), ["tcp 0.0.0.0:8001 2", "udp 0.0.0.0:8002 1"]);
        // They are this process's, though it is elsewhere.
        assert_eq!(found[0]["sockets"][0]["worker"]["pid"], std::process::id());
        let text = host.succeed(&["groups", "--netns", &path]);
        assert!(text.contains("0.0.0.0:8001") && !text.contains("8000"), "{text}");
        assert!(!text.contains("NETNS"), "{text}");
        drop(leave);
        elsewhere.join().unwrap();
    });
}

#[test]
fn a_namespace_of_a_process_is_looked_into_by_its_pid_and_when_none_is_named() {
    Host::with(|host| {
        let mut command = host.balancer(&["run", "--listen", "0.0.0.0:8000", "--workers", "2"]);
        // SAFETY: between fork and exec only a system call is made.
        unsafe {
            command.pre_exec(|| Ok(unshare_unsafe(UnshareFlags::NEWNET)?));
        }
        let running = Running::start(command);
        let pid = running.workers()[0];
        let link = read_link(format!("/proc/{pid}/ns/net")).unwrap();
        let netns = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit());
        let netns = netns.parse().unwrap();
        for args in [&["--netns", &pid.to_string()][..], &[]] {
            let found = groups_of(host, netns, args);
            assert_eq!(outline(&found), ["tcp 0.0.0.0:8000 2"], "{args:?}");
            assert_eq!(found[0]["steered"], "tcp-8000", "{args:?}");
        }
        assert_eq!(outline(&groups(host)), Vec::<String>::new());
        let text = host.succeed(&["groups"]);
        assert!(text.contains("NETNS") && text.contains(&netns.to_string()), "{text}");
        running.stop();
    });
}

/// Two sockets opened before two forks, so that three processes hold each; the children poll one each.
const PREFORK: &str = "\
import os, select, socket, sys

sockets = []
for _ in range(2):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(('127.0.0.1', 8000))
    listener.listen()
    sockets.append(listener)

# The second one first: neither the order of PIDs nor that of descriptors gives it away.
for listener in reversed(sockets):
    if os.fork() == 0:
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN)
        # In one piece, as the brother writes too.
        os.write(1, b'%d %d\\n' % (os.getpid(), os.fstat(listener.fileno()).st_ino))
        epoll.poll()
        sys.exit()
os.wait()
";

#[test]
fn of_several_processes_that_hold_a_socket_the_one_that_polls_it_is_its_worker() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let mut python =
            Command::new("python3").args(["-c", PREFORK]).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(python.stdout.take().unwrap());
        let mut said: Vec<(u64, u64)> = stdout
            .lines()
            .take(2)
            .map(|line| {
                let line = line.unwrap();
                let (pid, inode) = line.split_once(' ').unwrap();
                (inode.parse().unwrap(), pid.parse().unwrap())
            })
            .collect();
        said.sort_unstable();
        let found = groups(host);
        assert_eq!(outline(&found), ["tcp 127.0.0.1:8000 2"]);
        let sockets = found[0]["sockets"].as_array().unwrap();
        let seen: Vec<(u64, u64)> = sockets
            .iter()
            .map(|socket| {
                assert_eq!(socket["holders"].as_array().unwrap().len(), 3, "{socket}");
                assert_eq!(socket["guessed"], false);
                let number = |value: &Value| value.as_u64().unwrap();
                (number(&socket["inode"]), number(&socket["worker"]["pid"]))
            })
            .collect();
        assert_eq!(seen, said);
        for (_, child) in said {
            let child = u32::try_from(child).unwrap();
            harness::running::send(child, rustix::process::Signal::KILL);
        }
        python.kill().unwrap();
        python.wait().unwrap();
    });
}

#[test]
fn a_namespace_that_is_not_there_is_refused_by_what_was_tried() {
    Host::with(|host| {
        let message = host.fail(1, &["groups", "--netns", "4194304"]);
        assert!(message.contains("4194304") && message.contains("no process"), "{message}");
        let message = host.fail(1, &["groups", "--netns", "/run/netns/no-such"]);
        assert!(message.contains("/run/netns/no-such"), "{message}");
        let message = host.fail(1, &["groups", "--netns", "/proc/self/stat"]);
        assert!(message.contains("not a network namespace"), "{message}");
        let message = host.fail(2, &["groups", "--netns", "blue"]);
        assert!(message.contains("`blue`") && message.contains("/run/netns/NAME"), "{message}");
    });
}
