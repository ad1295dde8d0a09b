//! A reload replaces every worker and loses nothing; where a new one does not get ready, the old ones
//! stay.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use harness::{
    Host, Running,
    client::{by_slot, request, requests},
    fifo,
    host::balancer,
    line::{Client, SERVER, ask},
    load::Load,
    running::{all_new, send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;
use tempfile::TempDir;

const ADDRESS: &str = "127.0.0.1:8090";

/// Runs two of the server that answers lines, handed its socket.
fn run_two(host: &Host, args: &[&str], words: &[&str]) -> Running {
    let command = ["--", "python3", SERVER, "handed"];
    host.run(&[&["--workers", "2"], args, &command, words].concat())
}

/// A command that may be written anew, and a directory for what it needs.
struct Script {
    directory: TempDir,
    path: PathBuf,
}

impl Script {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server");
        let script = Self { directory, path };
        script.write(text);
        script
    }

    fn write(&self, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o700)).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

fn serve(words: &str) -> String {
    format!("exec python3 {SERVER} handed {words}")
}

#[test]
fn a_reload_under_load_replaces_every_worker_and_loses_no_request() {
    Host::with(|host| {
        let mut running = host.run(&["--weights", "1,1,3", "--policy", "weighted"]);
        let (address, before) = (running.address(), host.workers(None));
        // A successor has the weight that its predecessor has by then.
        host.succeed(&["weight", &format!("{}=2", before[1])]);
        let load = Load::start(move || request(address));
        for round in 1..=3 {
            let said = host.succeed(&["reload"]);
            assert!(said.contains("3 of 3 replaced"), "{said}");
            running.wait_for("(3 of 3 reloaded)");
            assert_eq!(host.workers(Some("live")).len(), 3, "round {round}");
        }
        let answered = load.end();
        all_new(&before, &host.workers(None));
        let status = host.status();
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        let shares = by_slot(&requests(address, 60)).into_values().collect::<Vec<_>>();
        assert_eq!(shares, [10, 20, 30]);
        let ended = running.stop();
        let total = format!("{} connections", answered + 60);
        assert!(ended.stdout.contains(&total), "no {total:?} in {ended:?}");
    });
}

#[test]
fn commands_are_reloaded_without_losing_a_request() {
    Host::with_python(|host| {
        let bind = ["--self-bind", "--listen", ADDRESS, "--", "python3", SERVER, "bind", "8090"];
        for args in [&["--", "python3", SERVER, "handed"][..], &bind] {
            let running = host.run(&[&["--workers", "2"], args].concat());
            let (address, before) = (running.address(), host.workers(None));
            let load = Load::start(move || ask(address));
            host.succeed(&["reload"]);
            load.end();
            all_new(&before, &host.workers(None));
            assert_eq!(host.status()["fallback"], 0);
            assert!(running.stop().status.success());
        }
    });
}

#[test]
fn a_command_that_was_written_anew_is_picked_up() {
    Host::with_python(|host| {
        let script = Script::new(&format!("echo first; {}", serve("")));
        let mut running = host.run(&["--workers", "2", "--", script.path()]);
        script.write(&format!("echo second; {}", serve("")));
        host.succeed(&["reload"]);
        for index in 0..2 {
            running.wait_for(&format!("[{index}] second"));
        }
        running.stop();
    });
}

#[test]
fn a_new_balancer_at_the_old_ones_place_is_picked_up_by_a_reload_and_not_before() {
    Host::with(|host| {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("balancer");
        let install = || {
            fs::copy(balancer(), directory.path().join("new")).unwrap();
            fs::rename(directory.path().join("new"), &place).unwrap();
        };
        install();
        let mut command = Command::new(&place);
        command.env("BALANCER_BPFFS", host.bpffs()).args(["run", "--workers", "2"]);
        let mut running = Running::start(command);
        install();
        let runs = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        let old = runs(host.workers(None)[0]);
        assert!(old.to_string_lossy().ends_with("(deleted)"), "{old:?}");
        send(host.workers(None)[1], Signal::KILL);
        running.wait_for("is back as PID");
        for pid in host.workers(None) {
            assert_eq!(runs(pid), old);
        }
        host.succeed(&["reload"]);
        let workers = host.workers(None);
        assert!(workers.iter().all(|pid| runs(*pid) == place), "{workers:?}");
        send(workers[0], Signal::KILL);
        running.wait_for("is back as PID");
        assert!(host.workers(None).iter().all(|pid| runs(*pid) == place));

        fs::remove_file(&place).unwrap();
        let refusal = host.fail(1, &["reload"]);
        assert!(refusal.contains(place.to_str().unwrap()), "{refusal}");
        running.stop();
    });
}

/// Reloads what cannot be: says so with these words, nobody is replaced, and all is as it was.
#[track_caller]
fn stops(host: &Host, running: &Running, words: &[&str]) {
    let before = host.workers(None);
    let refusal = host.fail(1, &["reload"]);
    for word in words {
        assert!(refusal.contains(word), "no {word:?} in {refusal}");
    }
    assert_eq!(refusal.trim_end().lines().count(), 1 + refusal.matches("\n  ").count());
    // The one that failed leaves its slot when it ends.
    wait_until("the old ones to be alone", || host.workers(None) == before);
    for _ in 0..4 {
        assert!(before.contains(&ask(running.address()).unwrap()));
    }
    assert_eq!(host.status()["fallback"], 0);
}

#[test]
fn a_worker_that_does_not_get_ready_stops_the_reload_and_the_old_ones_stay() {
    Host::with_python(|host| {
        let script = Script::new(&serve("notify"));
        let args = ["--workers", "2", "--ready", "notify", "--ready-timeout", "2s", "--"];
        let mut running = host.run(&[&args[..], &[script.path()]].concat());
        script.write(&serve(""));
        stops(host, &running, &["worker 0", "READY=1", "2s", "--ready-timeout"]);
        script.write("echo no config >&2; exit 3");
        stops(host, &running, &["worker 0", "exit code 3", "no config"]);
        fs::remove_file(&script.path).unwrap();
        stops(host, &running, &["cannot run", "No such file"]);

        script.write(&serve("notify"));
        host.succeed(&["reload"]);
        // And a worker that dies is still started again.
        send(host.workers(None)[0], Signal::KILL);
        running.wait_for("is back as PID");
        running.stop();
    });
}

#[test]
fn a_command_that_ends_right_after_its_start_stops_the_reload() {
    Host::with_python(|host| {
        let script = Script::new(&serve(""));
        let running = host.run(&["--workers", "2", "--", script.path()]);
        script.write("exit 3");
        stops(host, &running, &["worker 0", "exit code 3"]);
        running.stop();
    });
}

#[test]
fn one_that_dies_while_its_predecessor_still_serves_gives_all_back_to_it() {
    Host::with_python(|host| {
        let running = run_two(host, &[], &[]);
        let before = host.workers(None);
        let mut clients = [0; 2].map(|_| Client::connect(running.address()).unwrap());
        let pids = clients.each_mut().map(|client| client.ask().unwrap());
        let mut reload = host.balancer(&["reload"]).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("a drain", || host.workers(Some("draining")) == before[..1]);
        let successor = host.workers(Some("live")).into_iter().find(|pid| !before.contains(pid));
        send(successor.unwrap(), Signal::KILL);
        assert_eq!(reload.wait().unwrap().code(), Some(1));
        assert_eq!(host.workers(Some("live")), before);
        assert_eq!(clients.each_mut().map(|client| client.ask().unwrap()), pids);
        running.stop();
    });
}

#[test]
fn a_command_that_notifies_gets_no_connection_before_it_is_ready() {
    Host::with_python(|host| {
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        fifo(&gate);
        let gated = format!("gate={}", gate.display());
        let command = ["--", "python3", SERVER, "handed", &gated, "notify"];
        let run = ["run", "--workers", "1", "--ready", "notify"];
        let mut running = host.start(&[&run[..], &command].concat());
        // Who opens the gate waits until the server is there.
        let open = || fs::write(&gate, "go\n").unwrap();
        wait_until("a worker", || host.output(&["status"]).status.success());
        assert!(host.workers(Some("live")).is_empty());
        open();
        running.wait_for("listening on");
        let before = host.workers(Some("live"));

        let mut reload = host.balancer(&["reload"]).stdout(Stdio::null()).spawn().unwrap();
        let successor = || host.workers(Some("starting"));
        wait_until("a successor", || successor().first().is_some_and(|&pid| pid > 0));
        let notify = fs::read_to_string(format!("/proc/{}/environ", successor()[0])).unwrap();
        let name = notify.split('\0').find_map(|v| v.strip_prefix("NOTIFY_SOCKET=@")).unwrap();
        // A stranger does not speak for it.
        let script = "\
import os, socket, sys
os.setuid(65534)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', '\\0' + sys.argv[1])";
        let stranger = Command::new("python3").args(["-c", script, name]).status().unwrap();
        assert!(stranger.success());
        assert_eq!(host.workers(Some("live")), before);
        assert!(reload.try_wait().unwrap().is_none());
        open();
        assert!(reload.wait().unwrap().success());
        all_new(&before, &host.workers(Some("live")));
        running.stop();
    });
}

#[test]
fn a_predecessor_finishes_its_connections_first_and_a_second_reload_waits() {
    Host::with_python(|host| {
        let mut running = run_two(host, &["--idle-grace", "off"], &[]);
        let before = host.workers(None);
        let mut clients = [0; 2].map(|_| Client::connect(running.address()).unwrap());
        let pids = clients.each_mut().map(|client| client.ask().unwrap());
        running.signal(Signal::HUP);
        wait_until("a drain", || host.workers(Some("draining")) == before[..1]);
        running.signal(Signal::HUP);
        running.wait_for("another begins when it has ended");
        assert_eq!(clients.each_mut().map(|client| client.ask().unwrap()), pids);
        assert_eq!(host.workers(Some("draining")), before[..1]);
        drop(clients);
        for _ in 0..2 {
            running.wait_for("(2 of 2 reloaded)");
        }
        assert_eq!(host.workers(Some("live")).len(), 2);
        running.stop();
    });
}

#[test]
fn what_waits_in_the_queue_of_a_predecessor_is_served_by_it() {
    Host::with_python(|host| {
        let running = run_two(host, &["--idle-grace", "off"], &[]);
        let before = host.workers(None);
        assert_eq!([(); 2].map(|()| ask(running.address()).unwrap()), before[..]);
        send(before[0], Signal::STOP);
        let mut clients = [(); 6].map(|()| Client::connect(running.address()).unwrap());
        running.signal(Signal::HUP);
        wait_until("a drain", || host.workers(Some("draining")) == before[..1]);
        // It gets nothing new.
        let mut later = [(); 2].map(|()| Client::connect(running.address()).unwrap());
        assert!(later.iter_mut().all(|client| client.ask().unwrap() != before[0]));
        drop(later);
        send(before[0], Signal::CONT);
        let pids = clients.each_mut().map(|client| client.ask().unwrap());
        assert_eq!(pids.iter().filter(|pid| **pid == before[0]).count(), 3, "{pids:?}");
        drop(clients);
        wait_until("the end of it", || !host.workers(None).contains(&before[0]));
        running.stop();
    });
}

#[test]
fn a_predecessor_that_does_not_finish_in_time_is_ended_all_the_same() {
    Host::with_python(|host| {
        let running = run_two(host, &["--drain-timeout", "300ms"], &["deaf"]);
        let before = host.workers(None);
        let processes: Vec<_> = before.iter().map(|pid| watch(*pid)).collect();
        let mut client = Client::connect(running.address()).unwrap();
        assert_eq!(client.ask().unwrap(), before[0]);
        host.succeed(&["reload"]);
        for process in &processes {
            wait_until_gone(process, "a predecessor");
        }
        all_new(&before, &host.workers(None));
        for pid in host.workers(None) {
            send(pid, Signal::KILL);
        }
        let ended = running.stop();
        for part in ["has connections left after 300ms (1 open", "has not ended within 300ms"] {
            assert!(ended.stderr.contains(part), "no {part:?} in {ended:?}");
        }
    });
}

#[test]
fn a_predecessor_is_told_to_end_and_not_killed() {
    Host::with_python(|host| {
        let script = "trap 'echo told to end; exit' TERM; python3 \"$0\" handed & wait";
        let running = host.run(&["--workers", "2", "--", "sh", "-c", script, SERVER]);
        host.succeed(&["reload"]);
        let ended = running.stop();
        // Two by the reload, and their successors as all stops.
        assert_eq!(ended.stdout.matches("told to end").count(), 4, "{ended:?}");
    });
}

#[test]
fn stopping_during_a_reload_ends_all_in_order() {
    Host::with_python(|host| {
        let running = run_two(host, &["--idle-grace", "off"], &[]);
        let mut clients = [0; 2].map(|_| Client::connect(running.address()).unwrap());
        let _pids = clients.each_mut().map(|client| client.ask().unwrap());
        let reload = host.balancer(&["reload"]).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("a drain", || host.workers(Some("draining")).len() == 1);
        let processes: Vec<_> = host.workers(None).into_iter().map(watch).collect();
        assert_eq!(processes.len(), 3);
        let ended = running.stop();
        assert!(ended.status.success(), "{ended:?}");
        for process in &processes {
            wait_until_gone(process, "a worker");
        }
        let reload = reload.wait_with_output().unwrap();
        assert_eq!(reload.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&reload.stderr).contains("told to stop"), "{reload:?}");
        assert!(host.is_clean());
    });
}

#[test]
fn where_nobody_can_be_drained_or_started_nothing_is_reloaded() {
    Host::with(|host| {
        let refusal = host.fail(1, &["reload"]);
        assert!(refusal.contains("no group is steered"), "{refusal}");
        let running = host.run(&["--workers", "2", "--policy", "kernel", "--name", "web"]);
        let before = host.workers(None);
        let refusal = host.fail(1, &["reload", "--group", "web"]);
        assert!(refusal.contains("balancer policy hash --group web"), "{refusal}");
        assert_eq!(host.workers(None), before);
        running.stop();
        let _socket = harness::sockets::tcp(ADDRESS);
        host.succeed(&["attach", ADDRESS, "--once"]);
        let refusal = host.fail(1, &["reload"]);
        assert!(refusal.contains("not started by balancer"), "{refusal}");
    });
}
