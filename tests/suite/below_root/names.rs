//! Names and lines that others chose reach no terminal as they are.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
};

use balancer_steering::escape::is_obeyed;
use harness::{
    Host,
    running::{send, wait_until},
};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// A title for the terminal's window, and the same by a control character of C1.
const NAMES: [&str; 2] = ["e\u{1b}]0;pwn\u{7}", "e\u{9d}0;pwn\u{9c}"];

/// A listener with SO_REUSEPORT on port 8090, bound to a device of that name.
fn listen_on(device: &str) -> Socket {
    let link = ["link", "add", "name", device, "type", "veth"];
    assert!(Command::new("ip").args(link).status().unwrap().success());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind_device(Some(device.as_bytes())).unwrap();
    socket.bind(&"0.0.0.0:8090".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(1).unwrap();
    socket
}

#[track_caller]
fn is_harmless(text: &str) {
    assert!(!text.contains(|c| is_obeyed(c) && c != '\n'), "{text:?}");
}

#[test]
fn the_name_of_a_device_is_shown_escaped() {
    Host::with(|host| {
        for name in NAMES {
            let _socket = listen_on(name);
            let here = ["groups", "--netns", "/proc/self/ns/net"];
            let text = host.succeed(&here);
            is_harmless(&text);
            let shown: String = name.chars().flat_map(|c| c.escape_default()).collect();
            assert!(text.contains(&format!("on {shown}")), "{text}");

            let json = host.succeed(&[&here[..], &["--json"]].concat());
            is_harmless(&json);
            let listing: Value = serde_json::from_str(&json).unwrap();
            let devices: Vec<&Value> =
                listing["groups"].as_array().unwrap().iter().map(|g| &g["device"]).collect();
            assert!(devices.contains(&&name.into()), "{devices:?}");
        }
        // Both are there: the refusal names them.
        let _sockets = [listen_on("a\u{1b}[2J"), listen_on("b\u{1b}[2J")];
        let refusal = host.fail(2, &["attach", ":8090"]);
        is_harmless(&refusal);
        assert!(refusal.contains("a\\u{1b}[2J") && refusal.contains("b\\u{1b}[2J"), "{refusal}");
    });
}

/// A server on port 8090 that calls itself what it likes.
fn server_called(name: &str, shares: bool) -> Child {
    let program = "import signal, socket, sys\n\
        s = socket.socket()\n\
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(sys.argv[2]))\n\
        s.bind(('127.0.0.1', 8090))\n\
        s.listen()\n\
        open('/proc/self/comm', 'w').write(sys.argv[1])\n\
        print(flush=True)\n\
        signal.pause()";
    let mut server = Command::new("python3")
        .args(["-c", program, name, if shares { "1" } else { "0" }])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server
}

#[test]
fn the_name_of_a_command_is_shown_escaped() {
    Host::with_python(|host| {
        for name in NAMES {
            let shown: String = name.chars().flat_map(|c| c.escape_default()).collect();
            let mut server = server_called(name, true);
            let text = host.succeed(&["groups", "--netns", "/proc/self/ns/net"]);
            is_harmless(&text);
            assert!(text.contains(&format!("{shown} {}", server.id())), "{text}");
            send(server.id(), Signal::KILL);
            server.wait().unwrap();

            let mut server = server_called(name, false);
            let refused = host.fail(1, &["attach", ":8090"]);
            let served = host.fail(1, &["run", "--listen", "127.0.0.1:8090"]);
            for refusal in [refused, served] {
                is_harmless(&refusal);
                assert!(refusal.contains(&format!("({shown})")), "{refusal}");
            }
            send(server.id(), Signal::KILL);
            server.wait().unwrap();
        }
    });
}

/// Prints a title and serves.
const TALKER: &str =
    "printf '\\033]0;pwn\\007line\\n'; printf '\\033]0;pwn\\007word\\n' >&2; exec sleep 1000";

#[test]
fn lines_of_workers_go_unchanged_to_what_is_no_terminal() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "1", "--", "sh", "-c", TALKER]);
        let line = running.line("line");
        assert_eq!(line, "[0] \u{1b}]0;pwn\u{7}line");
        let ended = running.stop();
        assert!(ended.stderr.contains("[0] \u{1b}]0;pwn\u{7}word"), "{ended:?}");
    });
}

/// A terminal, and the name of its other end.
fn terminal() -> (fs::File, String) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    (terminal.into(), name)
}

#[test]
fn lines_of_workers_and_complaints_reach_a_terminal_escaped() {
    Host::with(|host| {
        // One on the terminal altogether; and one of which only complaints go there.
        for args in [&["--workers", "1"][..], &["--workers", "1", "--quiet"]] {
            let (mut terminal, name) = terminal();
            let open = || fs::OpenOptions::new().read(true).write(true).open(&name).unwrap();
            let mut command =
                host.balancer(&[&["run"], args, &["--", "sh", "-c", TALKER]].concat());
            command.stdin(Stdio::null()).stdout(open()).stderr(open());
            let mut balancer = command.spawn().unwrap();
            drop(command);
            let mut seen = String::new();
            let mut read = || {
                let mut some = [0; 4096];
                // Nobody is at the other end any more.
                let count = terminal.read(&mut some).unwrap_or_default();
                seen.push_str(&String::from_utf8_lossy(&some[..count]));
                (seen.clone(), count > 0)
            };
            wait_until("both lines", || {
                let (seen, _) = read();
                seen.contains("word") && (args.len() > 2 || seen.contains("line"))
            });
            send(balancer.id(), Signal::TERM);
            while read().1 {}
            balancer.wait().unwrap();
            assert!(!seen.contains("\u{1b}]0;pwn"), "{seen:?}");
            assert!(seen.contains("\\u{1b}]0;pwn\\u{7}word"), "{seen:?}");
        }
    });
}
