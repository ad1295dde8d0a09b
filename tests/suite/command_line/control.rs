//! Short-lived commands over the pins of a running group: each takes effect at once and loses
//! nothing.

use std::{
    fs::File,
    hint::spin_loop,
    net::SocketAddr,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use balancer_steering::policy::Policy;
use harness::{
    Host,
    client::{by_slot, request, requests},
    has_open,
    running::wait_until,
    sockets::tcp,
};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

/// Clients that ask as fast as they are answered, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..4)
            .map(|_| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || {
                    let mut answered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        request(address).unwrap();
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        Self { stop, clients }
    }

    /// How many were answered; all were.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().unwrap()).sum()
    }
}

fn total(status: &Value, what: &str) -> u64 {
    status["members"].as_array().unwrap().iter().map(|m| m[what].as_u64().unwrap()).sum()
}

#[test]
fn a_hundred_policy_switches_and_weight_changes_under_load_lose_nothing() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3", "--policy", "hash"]);
        let load = Load::start(running.address());
        let policies = ["round-robin", "weighted", "random", "hash"];
        for (change, policy) in (0..100).zip(policies.into_iter().cycle()) {
            host.succeed(&["policy", policy]);
            let worker = running.workers()[change % 3];
            host.succeed(&["weight", &format!("{worker}={}", change * 10 + 1)]);
        }
        let answered = load.finish();
        let status = host.status();
        assert_eq!(total(&status, "selected"), answered, "{status}");
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        assert!(answered > 1000, "only {answered} connections were made meanwhile");
        running.stop();
    });
}

#[test]
fn switching_to_the_kernels_hash_and_back_under_load_loses_nothing() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3"]);
        let load = Load::start(running.address());
        for _ in 0..50 {
            host.succeed(&["policy", "kernel"]);
            host.succeed(&["policy", "round-robin"]);
        }
        let answered = load.finish();
        // With no program the workers' own counts are shown, and those go on under every policy.
        host.succeed(&["policy", "kernel"]);
        let ended = running.stop();
        let total = format!("{answered} connections; no program");
        assert!(answered > 0 && ended.stdout.contains(&total), "no {total:?} in {ended:?}");
    });
}

#[test]
fn a_policy_switch_takes_effect_with_the_next_connection() {
    Host::with(|host| {
        let running = host.run(&["--weights", "2,1", "--policy", "round-robin"]);
        assert_eq!(by_slot(&requests(running.address(), 30))[&0], 15);
        assert_eq!(
            host.succeed(&["policy", "weighted"]),
            "tcp-PORT: round-robin → weighted\n"
                .replace("PORT", &running.address().port().to_string())
        );
        let answers = requests(running.address(), 30);
        assert!(answers.iter().all(|answer| answer.policy == "weighted"));
        assert_eq!(by_slot(&answers)[&0], 20);
        running.stop();
    });
}

#[test]
fn a_weight_takes_effect_with_the_next_connection() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--policy", "weighted"]);
        let [first, second] = running.workers() else { unreachable!() };
        host.succeed(&["weight", &format!("{first}=9"), &format!("{second}=1")]);
        let of_first = requests(running.address(), 100).iter().filter(|a| a.pid == *first).count();
        assert_eq!(of_first, 90);
        running.stop();
    });
}

#[test]
fn a_weight_that_the_policy_ignores_is_kept_and_said_to_be_ignored() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--policy", "round-robin"]);
        let output = host.output(&["weight", &format!("{}=9", running.workers()[0])]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("ignores weights"));
        host.succeed(&["policy", "weighted"]);
        let answers = requests(running.address(), 10);
        assert_eq!(answers.iter().filter(|a| a.pid == running.workers()[0]).count(), 9);
        running.stop();
    });
}

#[test]
fn a_weight_is_said_to_be_ignored_under_exactly_those_policies_that_ignore_it() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let weight = format!("{}=9", running.workers()[0]);
        for policy in Policy::ALL {
            host.succeed(&["policy", policy.name()]);
            let output = host.output(&["weight", &weight]);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{policy:?}: {message}");
            assert_eq!(message.contains("ignores weights"), !policy.weighs(), "{message}");
        }
        running.stop();
    });
}

#[test]
fn status_prints_the_documented_object() {
    Host::with(|host| {
        let running = host.run(&["--weights", "5,3", "--policy", "weighted", "--name", "web"]);
        requests(running.address(), 8);
        wait_until("all are closed", || {
            let status = host.status();
            (0..2).all(|slot| status["members"][slot]["open"] == 0)
        });
        let status = host.status();
        let netns = status["group"]["netns"].as_u64().unwrap();
        assert_eq!(
            format!("net:[{netns}]"),
            std::fs::read_link(format!("/proc/{}/ns/net", running.pid()))
                .unwrap()
                .to_str()
                .unwrap()
        );
        let pid_of = |slot: usize| status["members"][slot]["pid"].clone();
        let expected = json!({
            "group": {
                "name": "web", "protocol": "tcp",
                "address": running.address().to_string(), "netns": netns,
            },
            "policy": "weighted",
            "options": {},
            "members": [
                {"slot": 0, "pid": pid_of(0), "weight": 5, "state": "live", "open": 0, "selected": 5,
                 "migrated": 0, "established": 5},
                {"slot": 1, "pid": pid_of(1), "weight": 3, "state": "live", "open": 0, "selected": 3,
                 "migrated": 0, "established": 3},
            ],
            "fallback": 0,
            "errors": 0,
            "unasked": 0,
            "displaced": 0,
            "counted": true,
        });
        assert_eq!(status, expected);
        let pids: Vec<u64> = (0..2).map(|slot| pid_of(slot).as_u64().unwrap()).collect();
        for worker in running.workers() {
            assert!(pids.contains(&u64::from(*worker)));
        }
        let text = host.succeed(&["status"]);
        assert!(text.starts_with("web  tcp/127.0.0.1:") && text.contains("62.5 %"), "{text}");
        running.stop();
    });
}

#[test]
fn of_several_groups_one_must_be_named() {
    Host::with(|host| {
        let one = host.run(&["--workers", "2", "--listen", "127.0.0.1:0", "--name", "one"]);
        let two = host.run(&["--workers", "2", "--listen", "127.0.0.1:0", "--name", "two"]);
        let refusal = host.fail(1, &["status"]);
        assert!(refusal.contains("--group") && refusal.contains("one, two"), "{refusal}");
        host.succeed(&["policy", "random", "--group", "two"]);
        assert_eq!(request(one.address()).unwrap().policy, "round-robin");
        assert_eq!(request(two.address()).unwrap().policy, "random");
        assert!(host.fail(1, &["status", "--group", "three"]).contains("one, two"));
        one.stop();
        assert_eq!(host.status()["group"]["name"], "two");
        two.stop();
    });
}

#[test]
fn detach_gives_the_group_back_and_its_supervisor_goes_on_without() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        let load = Load::start(running.address());
        host.succeed(&["detach"]);
        assert!(host.is_clean());
        assert_eq!(request(running.address()).unwrap().policy, "kernel");
        // A worker that dies now is still replaced; only nobody steers.
        let victim = running.workers()[0];
        load.finish();
        harness::running::send(victim, rustix::process::Signal::KILL);
        running.wait_for("is back as PID");
        requests(running.address(), 10);
        assert!(running.stop().status.success());
    });
}

#[test]
fn a_command_waits_while_another_changes_the_group() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1", "--name", "busy"]);
        let directory = File::open(host.pins("busy")).unwrap();
        flock(&directory, FlockOperation::LockExclusive).unwrap();
        let change = format!("{}=7", running.workers()[0]);
        let mut command =
            host.balancer(&["weight", &change]).stdout(Stdio::null()).spawn().unwrap();
        wait_for_lock(host, "busy", &mut command);
        assert_eq!(host.status()["members"][0]["weight"], 1);
        drop(directory);
        assert!(command.wait().unwrap().success());
        assert_eq!(host.status()["members"][0]["weight"], 7);
        running.stop();
    });
}

#[test]
fn a_command_that_waited_for_a_group_given_back_meanwhile_changes_nothing() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1", "--name", "gone"]);
        let directory = File::open(host.pins("gone")).unwrap();
        flock(&directory, FlockOperation::LockExclusive).unwrap();
        let change = format!("{}=7", running.workers()[0]);
        let mut command =
            host.balancer(&["weight", &change]).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_lock(host, "gone", &mut command);
        std::fs::remove_dir_all(host.pins("gone")).unwrap();
        drop(directory);
        let output = command.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains("nothing was changed"), "{complaint}");
        running.stop();
    });
}

/// Waits until a command waits for a group's lock.
fn wait_for_lock(host: &Host, group: &str, command: &mut Child) {
    while !has_open(command.id(), &host.pins(group)) {
        assert_eq!(command.try_wait().unwrap(), None, "it did not wait");
        thread::yield_now();
    }
}

#[test]
fn commands_at_once_leave_a_state_that_all_of_them_made() {
    Host::with(|host| {
        let running = host.run(&["--workers", "4", "--policy", "weighted"]);
        let commands: Vec<_> = running
            .workers()
            .iter()
            .flat_map(|pid| (1..=5).map(move |weight| format!("{pid}={weight}")))
            .map(|change| {
                host.balancer(&["weight", &change]).stdout(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for mut command in commands {
            assert!(command.wait().unwrap().success());
        }
        let weights: Vec<u64> = host.status()["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| member["weight"].as_u64().unwrap())
            .collect();
        // Whichever came last, the table is that of the weights shown.
        let round = usize::try_from(weights.iter().sum::<u64>()).unwrap();
        let answers = by_slot(&requests(running.address(), round));
        for (slot, weight) in (0..).zip(&weights) {
            assert_eq!(answers[&slot] as u64, *weight, "{weights:?} {answers:?}");
        }
        running.stop();
    });
}

#[test]
fn a_command_that_is_killed_at_any_moment_leaves_a_group_that_can_be_described_and_cleaned() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8000")];
        let weight = format!("{}=7", std::process::id());
        let commands: [&[&str]; 4] = [
            &["attach", ":8000", "--once"],
            &["policy", "weighted"],
            &["weight", &weight],
            &["detach"],
        ];
        for round in 0..200u32 {
            let mut command = host.balancer(commands[round as usize % commands.len()]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // It takes some 20 ms; each time a little less or more than the time before.
            let moment =
                Instant::now() + Duration::from_micros(u64::from(round * 7919 % 251) * 100);
            while Instant::now() < moment {
                spin_loop();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            if host.pins("tcp-8000").exists() {
                let status = host.status();
                let members = status["members"].as_array().unwrap();
                assert_eq!(members.len(), 2, "round {round}: {status}");
                if round % 3 == 0 {
                    host.succeed(&["detach"]);
                }
            }
        }
        // What those left that were killed half-way is swept by who comes next.
        if !host.pins("tcp-8000").exists() {
            host.succeed(&["attach", ":8000", "--once"]);
        }
        host.succeed(&["detach"]);
        host.succeed(&["attach", ":8000", "--once"]);
        host.succeed(&["detach"]);
        assert!(host.is_clean());
    });
}
