//! `balancer compare`, for real: what it measures, what it does with a trial that fails, and that
//! it leaves nothing behind.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    thread,
};

use harness::{
    Host,
    running::{send, wait_until, wait_until_gone, watch},
};
use rustix::{
    process::Signal,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::{Value, json};

/// A comparison under way.
struct Comparing {
    child: Child,
    progress: BufReader<ChildStderr>,
    json: tempfile::TempPath,
}

impl Comparing {
    fn start(host: &Host, args: &[&str]) -> Self {
        let json = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut command = host.balancer(&[&["compare"], args].concat());
        command.arg("--json").arg(&json).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let progress = BufReader::new(child.stderr.take().unwrap());
        Self { child, progress, json }
    }

    /// Waits until a scenario is begun.
    fn wait_for(&mut self, scenario: &str) {
        let mut line = String::new();
        while !line.starts_with(&format!("comparing: {scenario}")) {
            line.clear();
            assert!(self.progress.read_line(&mut line).unwrap() > 0, "it never came to {scenario}");
        }
    }

    /// Its workers at this moment.
    fn workers(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap_or_default().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    fn finish(mut self) -> (ExitStatus, Value) {
        io::copy(&mut self.progress, &mut io::sink()).unwrap();
        let status = self.child.wait().unwrap();
        (status, serde_json::from_str(&fs::read_to_string(&self.json).unwrap()).unwrap())
    }
}

impl Drop for Comparing {
    /// Its workers end with it.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Trials are marked where this machine is too busy with other tests: they are complete all the
/// same, and even if all are, the report is.
fn compared(host: &Host, args: &[&str]) -> Value {
    let (status, report) = Comparing::start(host, args).finish();
    assert!(status.code().is_some_and(|code| code <= 1), "{status}");
    report
}

/// The trials of a scenario, one a round and contender: of those that were run again for a generator
/// that was late, the last.
fn trials(report: &Value, scenario: usize) -> Vec<&Value> {
    let mut trials: Vec<&Value> =
        report["scenarios"][scenario]["trials"].as_array().unwrap().iter().rev().collect();
    trials.dedup_by_key(|trial| (trial["round"].clone(), trial["contender"].clone()));
    trials.reverse();
    trials
}

/// What each worker had of a trial.
fn shares(trial: &Value, of: &str) -> Vec<u64> {
    let workers = trial["measured"]["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker[of].as_u64().unwrap()).collect()
}

#[test]
fn few_connections_are_even_under_round_robin_and_all_are_served_under_each() {
    Host::with(|host| {
        let report = compared(host, &["--scenario", "few", "--trials", "3"]);
        // No weight differs here, so weighted would be round-robin once more.
        assert_eq!(report["scenarios"][0]["without"], json!(["weighted"]));
        for trial in trials(&report, 0) {
            let connections = shares(trial, "connections");
            assert_eq!(connections.iter().sum::<u64>(), 40, "{trial}");
            assert_eq!(connections, shares(trial, "requests"));
            assert!(shares(trial, "cpu").iter().sum::<u64>() > 0, "{trial}");
            if trial["contender"] == "round-robin" {
                assert_eq!(connections, [10, 10, 10, 10]);
            }
        }
        // Trials take turns, and each round begins with another contender.
        let mut contenders = report["contenders"].as_array().unwrap().clone();
        assert_eq!(contenders.pop(), Some(json!("weighted")));
        let order: Vec<&Value> =
            trials(&report, 0).into_iter().map(|trial| &trial["contender"]).collect();
        assert_eq!(order[..contenders.len()], contenders.iter().collect::<Vec<_>>());
        assert_eq!(order[contenders.len()], &contenders[1]);
        assert!(host.is_clean());
    });
}

#[test]
fn connections_that_stay_are_counted_once_and_their_requests_each() {
    Host::with(|host| {
        let policies = "round-robin,shared,least-connections";
        // Twice, so that the second finds workers that have just closed the first one's.
        let args = ["--scenario", "long-lived", "--policies", policies, "--trials", "2"];
        for trial in trials(&compared(host, &args), 0) {
            assert_eq!(shares(trial, "requests").iter().sum::<u64>(), 600, "{trial}");
            let connections = shares(trial, "connections");
            // Those too that get no request, as some do by Zipf's law.
            assert_eq!(connections.iter().sum::<u64>(), 200, "{trial}");
            let even = ["round-robin", "least-connections"].map(Value::from);
            if even.contains(&trial["contender"]) {
                assert_eq!(connections, [50, 50, 50, 50], "{trial}");
            }
        }
    });
}

#[test]
fn every_worker_is_replaced_under_load_and_nothing_is_lost_by_round_robin() {
    Host::with(|host| {
        let args = ["--scenario", "restart", "--policies", "round-robin", "--trials", "2"];
        for trial in trials(&compared(host, &args), 0) {
            let contender = trial["contender"].as_str().unwrap();
            if contender == "round-robin" {
                assert_eq!(trial["measured"]["errors"], Value::Object(Default::default()));
            }
            // Slots change hands; who served is still one of four.
            let answered: u64 = shares(trial, "requests").iter().sum();
            let failed = trial["measured"]["errors"].as_object().unwrap().values();
            let failed: u64 = failed.map(|count| count.as_u64().unwrap()).sum();
            assert_eq!(answered + failed, 400, "{trial}");
        }
    });
}

#[test]
fn a_stalled_worker_stalls_whom_the_kernel_gives_it_and_not_whom_an_option_keeps_away() {
    Host::with(|host| {
        let avoiding = "hash+avoid-stalled=10ms";
        let args = ["--scenario", "stalled-worker", "--policies", avoiding, "--trials", "1"];
        let report = compared(host, &args);
        let slow = |index: usize| -> u64 {
            let latency = trials(&report, 0)[index]["measured"]["latency"].as_array().unwrap();
            let slow = latency.iter().filter(|value| value[0].as_u64().unwrap() > 50_000);
            slow.map(|value| value[1].as_u64().unwrap()).sum()
        };
        // Of 400 requests in a second, 160 come in those 400 ms, and a quarter of them there.
        assert_eq!(report["contenders"], json!(["kernel", avoiding]));
        assert!((10..80).contains(&slow(0)), "{}", slow(0));
        // Those of the first 10 ms wait there still.
        assert!(2 * slow(1) < slow(0), "{} beside {}", slow(1), slow(0));
    });
}

#[test]
fn a_trial_whose_worker_was_killed_is_marked_and_the_others_go_on() {
    Host::with(|host| {
        let args = ["--scenario", "long-lived", "--policies", "round-robin", "--trials", "3"];
        let mut comparing = Comparing::start(host, &args);
        comparing.wait_for("long-lived");
        // One that has been busy, so it is in the middle of a load; and once more, in case that
        // this was between two.
        for _ in 0..2 {
            let mut victim = None;
            wait_until("a worker under load", || {
                let busy = |pid: &u32| cpu_millis(*pid) > 20;
                victim = comparing.workers().into_iter().find(busy);
                victim.is_some()
            });
            let victim = victim.unwrap();
            let process = watch(victim);
            send(victim, Signal::KILL);
            wait_until_gone(&process, "a worker");
        }
        let (status, report) = comparing.finish();
        assert!(status.code().is_some_and(|code| code <= 1), "{status}");
        let reasons: Vec<&Value> =
            trials(&report, 0).into_iter().map(|trial| &trial["invalid"]).collect();
        assert_eq!(reasons.len(), 6);
        let killed = |reason: &&&Value| {
            reason.as_str().is_some_and(|reason| reason.contains("was killed by signal 9"))
        };
        let marked = reasons.iter().filter(killed).count();
        assert!((1..=2).contains(&marked), "{reasons:?}");
    });
}

fn cpu_millis(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().map_or(0, |nanos| nanos.parse::<u64>().unwrap() / 1_000_000)
}

#[test]
fn a_scenario_whose_port_cannot_be_had_is_marked_and_the_report_is_finished() {
    Host::with(|host| {
        let args = ["--scenario", "few,short", "--policies", "kernel", "--trials", "2"];
        let mut comparing = Comparing::start(host, &args);
        comparing.wait_for("few");
        let thief = steal_all_ports(comparing.child.id());
        let (status, report) = comparing.finish();
        drop(thief);
        // Not one trial of the second scenario came about; of the first, one had begun.
        assert!(trials(&report, 1).iter().all(|trial| {
            let reason = trial["invalid"].as_str().unwrap_or_default();
            reason.contains("cannot be started") && trial["measured"].is_null()
        }));
        assert_eq!(trials(&report, 1).len(), 2);
        assert!(status.code().is_some(), "{status}");
    });
}

/// Leaves one port to choose from in the network namespace of a process, and takes it.
fn steal_all_ports(pid: u32) -> TcpListener {
    let steal = move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )
        .unwrap();
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "65000 65000").unwrap();
        TcpListener::bind("127.0.0.1:65000").unwrap()
    };
    thread::spawn(steal).join().unwrap()
}

#[test]
fn ctrl_c_writes_what_there_is_and_leaves_nothing_behind() {
    Host::with(|host| {
        let args = ["--scenario", "few,stalled-worker", "--trials", "9"];
        let mut comparing = Comparing::start(host, &args);
        comparing.wait_for("stalled-worker");
        let workers: Vec<_> = comparing.workers().into_iter().map(watch).collect();
        assert!(!workers.is_empty());
        let pid = comparing.child.id();
        send(pid, Signal::INT);
        let (status, report) = comparing.finish();
        assert_eq!(status.code(), Some(130));
        assert_eq!(report["interrupted"], true);
        let all = report["contenders"].as_array().unwrap().len();
        let without = report["scenarios"][0]["without"].as_array().unwrap().len();
        assert_eq!(trials(&report, 0).len(), 9 * (all - without));
        workers.iter().for_each(|worker| wait_until_gone(worker, "a worker"));
        assert!(host.is_clean());
    });
}

#[test]
fn workers_do_not_outlive_a_comparison_that_was_killed() {
    Host::with(|host| {
        let mut comparing = Comparing::start(host, &["--scenario", "stalled-worker"]);
        comparing.wait_for("stalled-worker");
        wait_until("workers", || comparing.workers().len() == 8);
        let workers: Vec<_> = comparing.workers().into_iter().map(watch).collect();
        let namespace = netns(comparing.child.id());
        assert_ne!(namespace, netns(std::process::id()));
        send(comparing.child.id(), Signal::KILL);
        comparing.child.wait().unwrap();
        workers.iter().for_each(|worker| wait_until_gone(worker, "a worker"));
        assert!(host.is_clean());
    });
}

#[test]
fn those_who_share_a_socket_are_woken_one_at_a_time() {
    Host::with(|host| {
        let mut comparing = Comparing::start(host, &["--scenario", "stalled-worker"]);
        comparing.wait_for("stalled-worker");
        wait_until("workers", || comparing.workers().len() == 8);
        // Of the eight, four wait on one socket, and four on one each.
        wait_until("exclusive waiters", || {
            comparing.workers().into_iter().filter(|&pid| waits_exclusively(pid)).count() == 4
        });
    });
}

/// Whether an epoll set of the process has `EPOLLEXCLUSIVE` (linux/eventpoll.h) on anything.
fn waits_exclusively(pid: u32) -> bool {
    const EXCLUSIVE: u32 = 1 << 28;
    let sets = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    sets.filter_map(|set| fs::read_to_string(set.path()).ok()).any(|text| {
        let events = text.lines().filter_map(|line| {
            let (_, rest) = line.strip_prefix("tfd:")?.split_once("events:")?;
            u32::from_str_radix(rest.split_whitespace().next()?, 16).ok()
        });
        events.into_iter().any(|events| events & EXCLUSIVE != 0)
    })
}

fn netns(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino()
}

#[test]
fn a_comparison_is_rendered_again_without_running() {
    Host::with(|host| {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (json, page, again) = (at("a.json"), at("a.html"), at("b.html"));
        let args = ["--scenario", "few", "--trials", "1", "--policies", "hash"];
        let first =
            host.output(&[&["compare", "--json", &json, "--report", &page], &args[..]].concat());
        let first = String::from_utf8(first.stdout).unwrap();
        let second = host.succeed(&["compare", "--from", &json, "--report", &again]);
        assert_eq!(first.lines().next(), second.lines().next());
        let rest = |text: &str| text.lines().filter(|l| !l.starts_with("wrote")).count();
        assert_eq!(rest(&first), rest(&second));
        assert_eq!(fs::read_to_string(page).unwrap(), fs::read_to_string(again).unwrap());
    });
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_runs() {
    Host::with(|host| {
        let unknown = host.fail(2, &["compare", "--scenario", "fast"]);
        assert!(unknown.contains("`fast`") && unknown.contains("stalled-worker"), "{unknown}");
        let unknown = host.fail(2, &["compare", "--policies", "fastest"]);
        assert!(unknown.contains("`fastest`") && unknown.contains("shared"), "{unknown}");
        let unknown = host.fail(2, &["compare", "--policies", "hash+avoid-stalled=soon"]);
        assert!(unknown.contains("`soon`") && unknown.contains("50ms"), "{unknown}");
        assert!(host.fail(2, &["compare", "--trials", "0"]).contains("1..=1000"));
        let unwritable = host.fail(1, &["compare", "--json", "/nowhere/at/all"]);
        assert!(unwritable.contains("/nowhere/at/all"), "{unwritable}");
        let missing = host.fail(1, &["compare", "--from", "/nowhere/at/all"]);
        assert!(missing.contains("/nowhere/at/all"), "{missing}");
        let strange = host.fail(1, &["compare", "--from", env!("CARGO_MANIFEST_PATH")]);
        assert!(strange.contains("Cargo.toml"), "{strange}");
        assert!(Path::new(env!("CARGO_MANIFEST_PATH")).exists());
    });
}

#[test]
fn the_scenarios_are_listed() {
    let list = Command::new(std::env::var_os("BALANCER_BIN").unwrap())
        .args(["compare", "--list"])
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for name in [
        "few",
        "short",
        "blocking",
        "long-lived",
        "costly",
        "heavy-tail",
        "slow-worker",
        "stalled-worker",
        "burst",
        "restart",
    ] {
        assert!(list.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}");
    }
}
