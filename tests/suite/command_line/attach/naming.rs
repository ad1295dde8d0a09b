//! Several groups on one port: each is named by a command that works, and has a name of its own.

use std::{collections::BTreeSet, process::Command};

use harness::{
    Host,
    host::balancer,
    sockets::{Opening, tcp, udp},
};
use socket2::Socket;

/// Groups of one port, of both families and protocols.
fn sockets() -> Vec<Socket> {
    let ipv6 = |address| Opening::tcp(address).with(|s| s.set_only_v6(true).unwrap()).at(address);
    let mut sockets = vec![udp("127.0.0.1:8000"), ipv6("[::]:8000"), ipv6("[::1]:8000")];
    sockets.extend(["0.0.0.0:8000", "127.0.0.1:8000", "127.0.0.1:8000"].map(tcp));
    sockets
}

/// The commands that a refusal of these arguments prints.
fn offered(host: &Host, args: &[&str]) -> Vec<String> {
    let message = host.fail(2, args);
    let lines = message.lines().filter_map(|line| line.strip_prefix("  balancer "));
    lines.map(|line| line.split("    ").next().unwrap().to_owned()).collect()
}

/// Runs a command as a shell reads it.
fn shell(host: &Host, command: &str) {
    let line = format!("{} {command}", balancer().display());
    let mut shell = Command::new("bash");
    // The shell refuses a pattern that no file's name matches, as zsh does.
    shell.args(["-O", "failglob", "-c", &line]).env("BALANCER_BPFFS", host.bpffs());
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

fn names(host: &Host) -> BTreeSet<String> {
    let pins = std::fs::read_dir(host.bpffs().join("balancer")).unwrap().flatten();
    pins.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn every_command_that_a_refusal_prints_works_as_it_is_printed() {
    Host::with(|host| {
        let _sockets = sockets();
        let own = std::process::id();
        let thread = format!("/proc/{own}/task/{}/ns/net", rustix::thread::gettid());
        for args in [&["attach", ":8000"][..], &["attach", ":8000", "--netns", &thread]] {
            let commands = offered(host, args);
            let (service, single): (Vec<_>, Vec<_>) =
                commands.iter().partition(|command| command.contains("--service"));
            assert_eq!((service.len(), single.len()), (1, 5), "{commands:?}");
            let expected =
                ["tcp-8000", "tcp-8000-127-0-0-1", "tcp-8000-ipv6", "tcp-8000-0-0-0-0-0-0-0-1"];
            let expected = expected.into_iter().chain(["udp-8000"]).map(str::to_owned).collect();
            // Each by itself, or all as a service: to the same effect.
            for commands in [single, service] {
                commands.iter().for_each(|command| shell(host, &format!("{command} --once")));
                assert_eq!(names(host), expected);
                for name in &names(host) {
                    host.succeed(&["detach", "--group", name]);
                }
            }
        }
        assert!(host.is_clean());
    });
}

#[test]
fn a_name_that_was_asked_for_is_refused_where_another_group_has_it() {
    Host::with(|host| {
        let _sockets = sockets();
        host.succeed(&["attach", "0.0.0.0:8000", "--once", "--name", "tcp-8000-ipv6"]);
        let args = ["attach", "[::1]:8000", "--once", "--name", "tcp-8000-ipv6"];
        assert!(host.fail(1, &args).contains("choose another name"));
        // The short one is free.
        host.succeed(&["attach", "[::]:8000", "--once"]);
        assert_eq!(names(host), ["tcp-8000", "tcp-8000-ipv6"].map(str::to_owned).into());
    });
}

#[test]
fn workers_on_a_port_of_another_groups_have_a_group_of_another_name() {
    Host::with(|host| {
        let one = host.run(&["--workers", "1", "--listen", "127.0.0.1:8000"]);
        let two = host.run(&["--workers", "1", "--listen", "127.0.0.2:8000"]);
        assert_eq!(names(host), ["tcp-8000", "tcp-8000-127-0-0-2"].map(str::to_owned).into());
        one.stop();
        two.stop();
        assert!(host.is_clean());
    });
}
