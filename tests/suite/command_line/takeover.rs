//! Another balancer goes on with what a killed one has left: nothing is lost, and nothing that is
//! attached changes.

use std::fs;

use aya::programs::ProgramInfo;
use balancer_common::LAYOUT_VERSION;
use balancer_steering::steering::{Steering, Store};
use harness::{
    Host, Running,
    client::{by_slot, request, requests},
    line::{SERVER, ask},
    load::{CLIENTS, Load},
    running::{send, wait_until, wait_until_gone, watch},
    servers::{self, Server},
};
use rustix::process::Signal;
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:8090";

fn kill_worker(pid: u32) {
    let process = watch(pid);
    send(pid, Signal::KILL);
    wait_until_gone(&process, "a worker");
}

/// Runs on a fixed port, to be found again.
fn run(host: &Host, args: &[&str]) -> Running {
    host.run(&[&["--listen", ADDRESS], args].concat())
}

fn take_over(host: &Host, args: &[&str]) -> Running {
    run(host, &[&["--takeover"], args].concat())
}

/// The numbers of the programs that are pinned for a group, as the kernel counts them: never used twice.
fn programs(host: &Host) -> Vec<u32> {
    let pins = fs::read_dir(host.pins("tcp-8090")).unwrap().flatten().map(|entry| entry.path());
    let of_us = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bal_"))
    };
    let mut programs: Vec<u32> =
        pins.filter(of_us).map(|path| ProgramInfo::from_pin(path).unwrap().id()).collect();
    programs.sort_unstable();
    programs
}

fn selected(status: &Value) -> u64 {
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member["selected"].as_u64().unwrap()).sum()
}

#[test]
fn a_killed_balancer_is_taken_over_under_load_and_nothing_is_lost() {
    Host::with(|host| {
        let agent = run(host, &["--weights", "1,2,3", "--policy", "weighted"]);
        let (address, workers) = (agent.address(), host.workers(None));
        let program = programs(host);
        let load = Load::start(move || request(address));
        agent.kill();
        load.goes_on();
        let before = selected(&host.status());
        let mut agent = take_over(host, &[]);
        load.goes_on();
        assert_eq!(host.workers(Some("live")), workers);
        assert_eq!(programs(host), program);
        let status = host.status();
        assert!(selected(&status) >= before + 20, "{before}, then {status}");
        assert_eq!((&status["fallback"], &status["policy"]), (&0.into(), &"weighted".into()));

        // What an agent is for.
        kill_worker(workers[1]);
        agent.wait_for("is back as PID");
        host.succeed(&["reload"]);
        assert!(host.workers(None).iter().all(|pid| !workers.contains(pid)));
        // Those that the killed worker had accepted are lost, and no others.
        let answered = load.end_but_for(CLIENTS);
        let shares = by_slot(&requests(address, 60)).into_values().collect::<Vec<_>>();
        assert_eq!(shares.iter().sum::<usize>(), 60);
        let ended = agent.stop();
        assert!(ended.status.success() && host.is_clean(), "{ended:?}");
        assert!(request(address).is_err(), "somebody still listens");
        assert!(answered > 80);
    });
}

#[test]
fn workers_that_died_meanwhile_are_started_and_all_have_their_weights() {
    Host::with(|host| {
        let agent = run(host, &["--weights", "1,2,3", "--policy", "weighted"]);
        let workers = host.workers(None);
        agent.kill();
        kill_worker(workers[2]);
        let mut agent = take_over(host, &[]);
        agent.wait_for("is back as PID");
        assert_eq!(host.workers(None)[..2], workers[..2]);
        let shares = by_slot(&requests(agent.address(), 60)).into_values().collect::<Vec<_>>();
        assert_eq!(shares, [10, 20, 30]);
        agent.stop();
    });
}

#[test]
fn one_that_waited_to_be_started_again_is_started_too() {
    Host::with_python(|host| {
        let command = ["--workers", "2", "--", "python3", SERVER, "handed"];
        let mut agent = run(host, &command);
        let stays = host.workers(None)[1];
        // Each successor comes later than the one before.
        for _ in 0..4 {
            let victim = host.workers(None).into_iter().find(|pid| *pid != stays);
            kill_worker(victim.unwrap());
            agent.wait_for("is back as PID");
        }
        let victim = host.workers(None).into_iter().find(|pid| *pid != stays);
        kill_worker(victim.unwrap());
        wait_until("a worker that waits", || host.workers(None) == [stays]);
        agent.kill();
        let mut agent = take_over(host, &command);
        agent.wait_for("is back as PID");
        assert_eq!(host.workers(Some("live")).len(), 2);
        agent.stop();
    });
}

#[test]
fn a_group_of_which_nobody_lives_is_taken_over_too() {
    Host::with(|host| {
        let agent = run(host, &["--workers", "2"]);
        let workers = host.workers(None);
        agent.kill();
        workers.into_iter().for_each(kill_worker);
        let mut agent = take_over(host, &[]);
        for _ in 0..2 {
            agent.wait_for("is back as PID");
        }
        let shares = by_slot(&requests(agent.address(), 20)).into_values().collect::<Vec<_>>();
        assert_eq!(shares, [10, 10]);
        assert_eq!(host.status()["fallback"], 0);
        agent.stop();
    });
}

#[test]
fn policy_weights_and_more_workers_apply_where_they_are_given() {
    Host::with(|host| {
        run(host, &["--workers", "2"]).kill();
        let workers = host.workers(None);
        let mut agent = take_over(host, &["--policy", "weighted", "--weights", "3,2,1"]);
        agent.wait_for("worker 2 is back as PID");
        assert_eq!(host.workers(None)[..2], workers);
        let shares = by_slot(&requests(agent.address(), 60)).into_values().collect::<Vec<_>>();
        assert_eq!(shares, [30, 20, 10]);
        agent.stop();
    });
}

#[test]
fn what_a_command_prints_meanwhile_is_no_error_and_is_read_by_who_takes_over() {
    Host::with_python(|host| {
        let command = ["--workers", "1", "--", "python3", SERVER, "handed", "talk"];
        let agent = run(host, &command);
        let server = ask(agent.address()).unwrap();
        let address = agent.address();
        agent.kill();
        // Each answer is preceded by a line of its own.
        for _ in 0..3 {
            assert_eq!(ask(address).unwrap(), server);
        }
        let mut agent = take_over(host, &command);
        for _ in 0..3 {
            agent.wait_for("[0] asked");
        }
        assert_eq!(host.workers(None), [server]);
        agent.stop();
    });
}

#[test]
fn what_a_command_prints_is_read_again_and_its_children_end_with_it() {
    Host::with_python(|host| {
        let script = "python3 \"$0\" handed talk & wait";
        let command = ["--workers", "1", "--", "sh", "-c", script, SERVER];
        let agent = run(host, &command);
        agent.kill();
        let mut agent = take_over(host, &command);
        let server = ask(agent.address()).unwrap();
        agent.wait_for("[0] asked");
        assert_ne!(server, host.workers(None)[0]);
        let process = watch(server);
        kill_worker(host.workers(None)[0]);
        wait_until_gone(&process, "the server");
        agent.wait_for("is back as PID");
        assert!(ask(agent.address()).is_ok());
        agent.stop();
    });
}

#[test]
fn what_bound_for_itself_is_taken_over_with_its_process_group() {
    Host::with_python(|host| {
        let script = "python3 \"$0\" bind 8090 & wait";
        let command = ["--workers", "2", "--self-bind", "--", "sh", "-c", script, SERVER];
        let agent = run(host, &command);
        let address = agent.address();
        let load = Load::start(move || ask(address));
        agent.kill();
        let agent = take_over(host, &command);
        let workers = host.workers(None);
        host.succeed(&["reload"]);
        load.end();
        assert!(host.workers(None).iter().all(|pid| !workers.contains(pid)));
        agent.stop();
        wait_until("all to be gone", || ask(address).is_err());
    });
}

#[test]
fn an_attached_group_is_taken_over_alike() {
    Host::with_python(|host| {
        let mut servers = Server::several(3, "tcp", ADDRESS);
        host.attach(&[ADDRESS, "--policy", "random"]).kill();
        let program = programs(host);
        servers::ask(ADDRESS, 10);
        servers.remove(0).kill();
        let before = host.status();
        let mut agent = host.attach(&[ADDRESS, "--takeover"]);
        agent.wait_for("is gone from slot");
        servers.push(Server::start("tcp", ADDRESS));
        agent.wait_for("is steered too, in slot 3");
        servers::ask(ADDRESS, 10);
        let status = host.status();
        assert_eq!(programs(host), program);
        assert_eq!((&before["policy"], &status["policy"]), (&"random".into(), &"random".into()));
        assert_eq!((selected(&before), &status["fallback"]), (10, &0.into()));
        let ended = agent.stop();
        assert!(ended.stdout.contains("20 connections"), "{ended:?}");
        assert!(host.is_clean());

        // Nobody watches over one that was attached once, so it may be taken over too.
        host.succeed(&["attach", ADDRESS, "--once"]);
        let mut agent = host.attach(&[ADDRESS, "--takeover", "--policy", "hash"]);
        assert_eq!(host.status()["policy"], "hash");
        servers.remove(0).kill();
        agent.wait_for("is gone from slot");
        agent.stop();
    });
}

#[test]
fn who_was_held_back_is_held_back_by_the_one_that_takes_over_too() {
    Host::with_python(|host| {
        let named = |name| Server::named("tcp", ADDRESS, name);
        let _servers = [named("web"), named("web")];
        let attach = [ADDRESS, "--admit", "same-command"];
        let mut agent = host.attach(&attach);
        let _stranger = named("stranger");
        agent.wait_for("(stranger) serves");
        agent.kill();
        let mut agent = host.attach(&[&attach[..], &["--takeover"]].concat());
        let line = agent.wait_for("(stranger)");
        assert!(line.contains("is held back"), "{line}");
        agent.stop();
    });
}

#[track_caller]
fn refused(host: &Host, code: i32, args: &[&str], parts: &[&str]) {
    let refusal = host.fail(code, args);
    assert_eq!(refusal.trim_end().lines().count(), 1, "{refusal}");
    for part in parts {
        assert!(refusal.contains(part), "no {part:?} in {refusal}");
    }
}

const RUN: [&str; 4] = ["run", "--listen", ADDRESS, "--takeover"];

#[test]
fn what_cannot_be_taken_over_is_refused_and_stays_as_it_is() {
    Host::with(|host| {
        refused(host, 1, &RUN, &["no group on tcp/127.0.0.1:8090", "without --takeover"]);
        refused(host, 2, &["run", "--listen", "127.0.0.1:0", "--takeover"], &["127.0.0.1:0"]);
        let agent = run(host, &["--workers", "2"]);
        let workers = host.workers(None);
        let pid = agent.pid().to_string();
        refused(host, 1, &RUN, &["tcp-8090", &format!("PID {pid}"), &format!("kill -9 {pid}")]);
        agent.kill();
        let named = [&RUN[..], &["--name", "web"]].concat();
        refused(host, 1, &named, &["no group web on tcp/127.0.0.1:8090"]);
        refused(host, 1, &["attach", ADDRESS, "--takeover"], &["balancer run --listen", ADDRESS]);
        let fewer = [&RUN[..], &["--workers", "1"]].concat();
        refused(host, 1, &fewer, &["1 workers", "2 that serve"]);
        let unfit = [&RUN[..], &["--weights", "1,2,3", "--workers", "3"]].concat();
        assert_eq!(host.workers(Some("live")), workers);
        let mut agent = Running::start(host.balancer(&unfit));
        agent.wait_for("is back as PID");
        agent.stop();

        let _sockets = [(); 2].map(|()| harness::sockets::tcp(ADDRESS));
        host.succeed(&["attach", ADDRESS, "--once"]);
        refused(host, 1, &RUN, &[&format!("balancer attach {ADDRESS} --takeover")]);
    });
}

#[test]
fn a_group_of_another_version_is_refused_as_such() {
    Host::with(|host| {
        run(host, &["--workers", "1"]).kill();
        let workers = host.workers(None);
        let path = host.pins("tcp-8090").join("GROUP");
        let other = LAYOUT_VERSION + 1;
        let map = aya::maps::MapData::from_pin(path).unwrap();
        let map = aya::maps::Map::Array(map);
        let mut map =
            aya::maps::Array::<_, balancer_common::record::GroupRecord>::try_from(map).unwrap();
        let record = map.get(&0, 0).unwrap();
        map.set(0, balancer_common::record::GroupRecord { version: other, ..record }, 0).unwrap();
        refused(host, 1, &RUN, &["tcp-8090", &format!("layout {other}"), "use that version"]);
        map.set(0, record, 0).unwrap();
        assert_eq!(host.workers(None), workers);
        let steering = Steering::open(&Store::at(host.bpffs()), "tcp-8090").unwrap();
        assert!(!steering.group().unwrap().agent.is_alive());
        take_over(host, &[]).stop();
    });
}
