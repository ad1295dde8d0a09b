//! `balancer run -- COMMAND`: any command, handed its socket or binding for itself, steered,
//! restarted and stopped like the built-in worker.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use harness::{
    Host, Running, fifo,
    line::{Client, SERVER, ask},
    running::{send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;

/// How many of some connections each server took.
fn shares(address: SocketAddr, connections: usize) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..connections {
        *shares.entry(ask(address).unwrap()).or_default() += 1;
    }
    shares
}

/// The PIDs of the workers, by slot.
fn workers(host: &Host) -> Vec<u32> {
    host.workers(None)
}

fn run_handed(host: &Host, args: &[&str]) -> Running {
    host.run(&[args, &["--", "python3", SERVER, "handed"]].concat())
}

/// A port that nobody has: hosts share no network.
const PORT: &str = "8090";
const ADDRESS: &str = "127.0.0.1:8090";

fn run_bound(host: &Host, workers: &str) -> Running {
    let args = ["--workers", workers, "--listen", ADDRESS, "--self-bind", "--ready-timeout", "30s"];
    host.run(&[&args[..], &["--", "python3", SERVER, "bind", PORT]].concat())
}

/// Runs what cannot work: nothing is left of it, and this is why.
fn refusal(host: &Host, code: i32, args: &[&str]) -> String {
    let refusal =
        host.fail(code, &[&["run", "--workers", "2", "--listen", ADDRESS], args].concat());
    assert!(host.is_clean(), "something is still pinned");
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    wait_until("the others to end", || TcpStream::connect(ADDRESS).is_err_and(refused));
    refusal
}

#[test]
fn a_command_is_handed_its_socket_as_systemd_would() {
    Host::with_python(|host| {
        let mut running = run_handed(host, &["--workers", "2", "--name", "web"]);
        for (index, pid) in workers(host).iter().enumerate() {
            let line = format!("[{index}] LISTEN_FDS=1 LISTEN_PID={pid} LISTEN_FDNAMES=web");
            running.line(&line);
            running.line(&format!("[{index}] input /dev/null, still inherited: True"));
        }
        let workers = workers(host);
        shares(running.address(), 2);
        let ended = running.stop();
        assert!(ended.status.success(), "{ended:?}");
        for (index, pid) in workers.iter().enumerate() {
            let complaint = format!("[{index}] complaint of {pid}");
            assert!(ended.stderr.contains(&complaint), "no {complaint:?} in {ended:?}");
            assert!(!ended.stdout.contains(&complaint));
        }
        assert!(host.is_clean());
    });
}

#[test]
fn commands_are_steered_like_any_worker() {
    Host::with_python(|host| {
        let running = run_handed(host, &["--workers", "3"]);
        let [first, second, third] = workers(host)[..] else { panic!("three workers") };
        let address = running.address();
        assert_eq!(shares(address, 30), BTreeMap::from([(first, 10), (second, 10), (third, 10)]));
        host.succeed(&["policy", "weighted"]);
        host.succeed(&["weight", &format!("{first}=3")]);
        assert_eq!(shares(address, 50), BTreeMap::from([(first, 30), (second, 10), (third, 10)]));
        host.succeed(&["drain", &first.to_string()]);
        assert_eq!(shares(address, 20), BTreeMap::from([(second, 10), (third, 10)]));
        let status = host.status();
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        running.stop();
    });
}

#[test]
fn connections_made_before_the_command_accepts_are_served() {
    Host::with_python(|host| {
        let args = ["--", "sh", "-c", "read line < gate; exec python3 \"$0\" handed", SERVER];
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        fifo(&gate);
        let mut command = host.balancer(&[&["run", "--workers", "1"], &args[..]].concat());
        let running = Running::start({
            command.current_dir(directory.path());
            command
        });
        let mut client = Client::connect(running.address()).unwrap();
        std::fs::write(&gate, "go\n").unwrap();
        assert_eq!(client.ask().unwrap(), workers(host)[0]);
        running.stop();
    });
}

#[test]
fn a_killed_command_comes_back_in_a_slot_of_its_own() {
    Host::with_python(|host| {
        let mut running = run_handed(host, &["--workers", "2"]);
        let killed = workers(host)[1];
        send(killed, Signal::KILL);
        running.wait_for("was killed by signal 9; starting it again in 100 ms");
        running.wait_for("worker 1 is back as PID");
        let status = host.status();
        let slots: Vec<&serde_json::Value> =
            status["members"].as_array().unwrap().iter().map(|member| &member["slot"]).collect();
        assert_eq!(slots, [0, 2]);
        let shares = shares(running.address(), 20);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [10, 10]);
        running.stop();
    });
}

#[test]
fn one_that_hangs_at_its_start_and_ignores_sigterm_makes_room_for_another() {
    Host::with_python(|host| {
        let directory = tempfile::tempdir().unwrap();
        let script = format!(
            "cd {}; mkdir first || {{ mkdir second && trap '' TERM && exec sleep 60; }}; \
             exec python3 {SERVER} handed notify",
            directory.path().display()
        );
        let within = ["--ready", "notify", "--ready-timeout", "3s", "--drain-timeout", "1s"];
        let command = ["--workers", "1", "--", "sh", "-c", &script];
        let mut running = host.run(&[&within[..], &command].concat());
        send(workers(host)[0], Signal::KILL);
        running.wait_for("worker 0 is back as PID");
        ask(running.address()).unwrap();
        wait_until("the other to be gone", || workers(host).len() == 1);
        let ended = running.stop();
        for part in ["has not sent READY=1", "has not ended within 1s of SIGTERM, and is killed"] {
            assert!(ended.stderr.contains(part), "no {part:?} in {ended:?}");
        }
    });
}

#[test]
fn stopping_while_one_hangs_at_its_start_starts_no_other() {
    Host::with_python(|host| {
        let directory = tempfile::tempdir().unwrap();
        let script = format!(
            "cd {}; mkdir first && exec python3 {SERVER} handed notify; \
             trap '' TERM; mkdir second; exec sleep 5",
            directory.path().display()
        );
        let command = ["--ready", "notify", "--ready-timeout", "3s", "--", "sh", "-c", &script];
        let mut running = host.run(&[&["--workers", "1"], &command[..]].concat());
        send(workers(host)[0], Signal::KILL);
        running.wait_for("starting it again");
        wait_until("it to hang", || directory.path().join("second").exists());
        let ended = running.stop();
        assert!(!ended.stdout.contains("back as") && !ended.stderr.contains("READY"), "{ended:?}");
    });
}

#[test]
fn a_server_behind_a_shell_finishes_before_run_ends() {
    Host::with_python(|host| {
        let directory = tempfile::tempdir().unwrap();
        // The shell ends at once when it is told to.
        let script = format!(
            "cd {}; (trap 'sleep 1; mkdir finished; exit' TERM; python3 {SERVER} handed & wait); :",
            directory.path().display()
        );
        let running = host.run(&["--workers", "1", "--", "sh", "-c", &script]);
        ask(running.address()).unwrap();
        running.stop();
        assert!(directory.path().join("finished").exists());
    });
}

#[test]
fn a_command_that_ends_at_once_ends_it_all_with_its_exit_code_and_last_words() {
    Host::with(|host| {
        let script = "echo well; for n in 1 2 3 4 5 6; do echo no config $n >&2; done; exit 7";
        let refusal = refusal(host, 1, &["--", "sh", "-c", script]);
        let (_, quoted) = refusal.split_once("ended with exit code 7").unwrap();
        assert!(quoted.contains("no config 2") && quoted.contains("no config 6"), "{refusal}");
        assert!(!quoted.contains("no config 1"), "{refusal}");
    });
}

#[test]
fn a_command_that_never_gets_ready_and_ignores_sigterm_does_not_keep_the_port() {
    Host::with_python(|host| {
        let notify = ["--ready", "notify", "--ready-timeout", "1s", "--"];
        let command = ["sh", "-c", "trap '' TERM; exec sleep 300"];
        let refusal = refusal(host, 1, &[&notify[..], &command].concat());
        assert!(refusal.contains("has not sent READY=1"), "{refusal}");
    });
}

#[test]
fn a_command_that_cannot_be_run_is_refused_and_nothing_is_left() {
    Host::with(|host| {
        for (command, why) in
            [("./no-such", "No such file"), (SERVER, "Permission denied"), ("no-such", "PATH")]
        {
            for args in [&["--", command][..], &["--self-bind", "--", command]] {
                let refusal = refusal(host, 1, args);
                let what = format!("cannot run `{command}`");
                assert!(refusal.contains(&what) && refusal.contains(why), "{refusal}");
            }
        }
    });
}

#[test]
fn stopping_ends_what_a_command_has_started_too() {
    Host::with_python(|host| {
        let script = "python3 \"$0\" handed & wait";
        let running = host.run(&["--workers", "1", "--", "sh", "-c", script, SERVER]);
        let server = ask(running.address()).unwrap();
        assert_ne!(server, workers(host)[0]);
        let process = watch(server);
        running.stop();
        wait_until_gone(&process, "the server");
    });
}

#[test]
fn what_a_killed_command_leaves_behind_does_not_keep_its_socket() {
    Host::with_python(|host| {
        let script = "python3 \"$0\" handed & wait";
        let mut running = host.run(&["--workers", "1", "--", "sh", "-c", script, SERVER]);
        let process = watch(ask(running.address()).unwrap());
        send(workers(host)[0], Signal::KILL);
        wait_until_gone(&process, "the server");
        running.wait_for("is back as PID");
        running.stop();
    });
}

#[test]
fn the_connections_of_a_commands_children_are_waited_for() {
    Host::with_python(|host| {
        let script = "python3 \"$0\" handed & wait";
        let running = host.run(&["--workers", "2", "--", "sh", "-c", script, SERVER]);
        let mut clients = [0; 2].map(|_| Client::connect(running.address()).unwrap());
        clients.iter_mut().for_each(|client| {
            client.ask().unwrap();
        });
        let worker = workers(host)[0].to_string();
        let refusal = host.fail(1, &["drain", &worker, "--wait", "--timeout", "100ms"]);
        assert!(refusal.contains("1 open"), "{refusal}");
        drop(clients);
        host.succeed(&["drain", &worker, "--wait"]);
        running.stop();
    });
}

#[test]
fn connections_that_are_half_open_when_a_drain_begins_are_waited_for() {
    Host::with_python(|host| {
        let args = ["--workers", "2", "--", "python3", SERVER, "handed", "defer"];
        let mut running = host.run(&args);
        for index in 0..2 {
            running.line(&format!("[{index}] LISTEN_FDS"));
        }
        let mut clients = [0; 2].map(|_| Client::connect(running.address()).unwrap());
        let worker = workers(host)[0].to_string();
        let refusal = host.fail(1, &["drain", &worker, "--wait", "--timeout", "100ms"]);
        assert!(refusal.contains("0 open, 2 on their way"), "{refusal}");
        clients.iter_mut().for_each(|client| {
            client.ask().unwrap();
        });
        let refusal = host.fail(1, &["drain", &worker, "--wait", "--timeout", "100ms"]);
        assert!(refusal.contains("(1 open, 0 of them busy)"), "{refusal}");
        drop(clients);
        host.succeed(&["drain", &worker, "--wait"]);
        running.stop();
    });
}

#[test]
fn output_that_is_no_text_is_shown_as_far_as_it_is_and_does_no_harm() {
    Host::with_python(|host| {
        let script = "printf 'a\\377b\\n'; echo next; exec python3 \"$0\" handed";
        let mut running = host.run(&["--workers", "1", "--", "sh", "-c", script, SERVER]);
        running.line("[0] a\u{fffd}b");
        running.line("[0] next");
        assert_eq!(shares(running.address(), 3).into_values().collect::<Vec<_>>(), [3]);
        running.stop();
    });
}

#[test]
fn what_commands_bind_for_themselves_is_steered_exactly() {
    Host::with_python(|host| {
        let mut running = run_bound(host, "3");
        assert_eq!(shares(running.address(), 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
        let status = host.status();
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));

        let killed = workers(host)[0];
        send(killed, Signal::KILL);
        running.wait_for("is back as PID");
        let shares = shares(running.address(), 30);
        assert!(!shares.contains_key(&killed));
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [10, 10, 10]);
        assert!(running.stop().status.success() && host.is_clean());
    });
}

#[test]
fn the_socket_that_a_command_bound_is_not_kept_by_its_supervisor() {
    Host::with_python(|host| {
        let mut running = run_bound(host, "1");
        let fds = std::fs::read_dir(format!("/proc/{}/fd", running.pid())).unwrap();
        let sockets: Vec<String> = fds
            .flatten()
            .filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string()))
            .collect();
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", running.pid())).unwrap();
        let listener = table.lines().find(|line| line.split_whitespace().nth(3) == Some("0A"));
        let inode = listener.unwrap().split_whitespace().nth(9).unwrap();
        assert!(!sockets.contains(&format!("socket:[{inode}]")), "{sockets:?}");
        // So it ends with the worker, and the group with it; the next is steered from scratch.
        send(workers(host)[0], Signal::KILL);
        running.wait_for("is back as PID");
        shares(running.address(), 5);
        assert_eq!(host.status()["fallback"], 0);
        running.stop();
    });
}

#[test]
fn a_command_that_binds_something_else_is_refused_with_what_was_expected() {
    Host::with_python(|host| {
        let bind = ["--self-bind", "--ready-timeout", "2s", "--", "python3", SERVER, "bind"];
        let elsewhere = refusal(host, 1, &[&bind[..], &["8091"]].concat());
        for part in [ADDRESS, "SO_REUSEPORT", "within 2s", "listens on 127.0.0.1:8091"] {
            assert!(elsewhere.contains(part), "no {part:?} in {elsewhere}");
        }
        let nowhere = refusal(
            host,
            1,
            &["--self-bind", "--ready-timeout", "100ms", "--", "sh", "-c", "read line < /dev/zero"],
        );
        assert!(nowhere.contains("any address of that protocol"), "{nowhere}");
        let listen = ["run", "--workers", "1", "--listen", ADDRESS];
        let alone = host.fail(1, &[&listen[..], &bind, &[PORT, "alone"]].concat());
        assert!(alone.contains("does not have SO_REUSEPORT set"), "{alone}");
        assert!(host.is_clean());
    });
}

#[test]
fn a_command_that_binds_for_itself_needs_a_port_and_an_address_that_is_free() {
    Host::with(|host| {
        let args = ["--self-bind", "--listen", "127.0.0.1:0", "--", "true"];
        let refusal = host.fail(2, &[&["run"], &args[..]].concat());
        assert!(refusal.contains("127.0.0.1:0"), "{refusal}");
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let refusal = host.fail(1, &["run", "--self-bind", "--listen", &address, "--", "true"]);
        assert!(refusal.contains("is served already"), "{refusal}");
    });
}
