//! A lock that another command has and keeps.

use std::{
    fs::File,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use harness::{
    Host, Running, has_open,
    running::{send, wait_until, wait_until_gone, watch},
    servers::Server,
};
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};

use super::{a_worker_is_replaced, live, wait_until_live, with_errors};

/// Takes a lock, as a command does that is stopped meanwhile.
fn lock(host: &Host) -> File {
    let file = File::open(host.pins("web")).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

fn run(host: &Host) -> Running {
    Running::start(with_errors(host, &["run", "--name", "web", "--workers", "2"]))
}

#[test]
fn a_worker_that_dies_while_the_group_is_locked_is_started_once_it_is_not() {
    Host::with(|host| {
        let mut running = run(host);
        let lock = lock(host);
        let killed = running.workers()[0];
        send(killed, Signal::KILL);
        running.wait_for("starting it again");
        // So is what else there is to do; and statistics go on.
        running.signal(Signal::HUP);
        running.wait_for("reloading 2 workers");
        running.wait_for(&format!("the group web is locked by PID {}", std::process::id()));
        (0..3).for_each(|_| drop(running.wait_for("connections")));
        drop(lock);
        running.wait_for("reloaded");
        let after = live(host);
        assert!(after.len() == 2 && !after.contains(&killed), "{after:?}");
        assert!(running.stop().status.success());
    });
}

#[test]
fn it_ends_in_order_though_the_group_is_locked() {
    Host::with(|host| {
        let mut running = run(host);
        let _lock = lock(host);
        // There is something to do.
        let begun = Instant::now();
        send(running.workers()[0], Signal::KILL);
        running.wait_for("starting it again");
        let ended = running.stop();
        assert!(ended.status.success() && host.is_clean(), "{ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
}

#[test]
fn workers_come_and_go_in_attach_though_the_group_is_locked_meanwhile() {
    Host::with_python(|host| {
        let first = Server::start("tcp", "127.0.0.1:9000");
        let attach = ["attach", "127.0.0.1:9000", "--name", "web"];
        let mut running = Running::attach(with_errors(host, &attach));
        let lock = lock(host);
        let second = Server::start("tcp", "127.0.0.1:9000");
        first.kill();
        running.wait_for("the group web is locked by PID");
        (0..3).for_each(|_| drop(running.wait_for("connections")));
        drop(lock);
        running.wait_for("is steered too");
        wait_until("the newcomer alone", || live(host) == [second.pid()].into());
        assert!(running.stop().status.success() && host.is_clean());
    });
}

#[test]
fn what_attach_cannot_give_back_it_says_how_to() {
    Host::with_python(|host| {
        let _server = Server::start("tcp", "127.0.0.1:9000");
        let running = host.attach(&["127.0.0.1:9000", "--name", "web"]);
        let lock = lock(host);
        let ended = running.stop();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        for part in ["web stays attached", "balancer detach --group web", "is locked by PID"] {
            assert!(ended.stderr.contains(part), "no {part:?} in {ended:?}");
        }
        drop(lock);
        host.succeed(&["detach", "--group", "web"]);
        assert!(host.is_clean());
    });
}

#[test]
fn a_command_gives_up_after_some_seconds_and_names_who_has_the_lock() {
    Host::with(|host| {
        let running = run(host);
        let weight = format!("{}=5", running.workers()[0]);
        let lock = lock(host);
        let own = std::process::id().to_string();
        let begun = Instant::now();
        let message = host.fail(1, &["weight", &weight]);
        assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
        for part in ["the group web", &own, "suite", "kill"] {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        drop(lock);
        host.succeed(&["weight", &weight]);
        running.stop();
    });
}

#[test]
fn a_holder_that_is_stopped_is_said_to_be() {
    Host::with(|host| {
        let running = run(host);
        let mut flock = Command::new("flock");
        let mut flock = flock.arg(host.pins("web")).args(["sleep", "1000"]).spawn().unwrap();
        wait_until("the lock", || {
            let file = File::open(host.pins("web")).unwrap();
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        });
        send(flock.id(), Signal::STOP);
        let message = host.fail(1, &["drain", &running.workers()[0].to_string()]);
        let cont = format!("kill -CONT {}", flock.id());
        assert!(message.contains("is stopped") && message.contains(&cont), "{message}");
        let process = watch(flock.id());
        flock.kill().unwrap();
        wait_until_gone(&process, "flock");
        flock.wait().unwrap();
        // Its child has inherited the lock, and goes on.
        let message = host.fail(1, &["drain", &running.workers()[0].to_string()]);
        assert!(message.contains("which has ended"), "{message}");
        running.stop();
    });
}

#[test]
fn a_command_that_waits_for_a_moment_goes_on() {
    Host::with(|host| {
        let running = run(host);
        let weight = format!("{}=5", running.workers()[0]);
        let lock = lock(host);
        let mut command = host.balancer(&["weight", &weight]);
        let mut command = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("it to have begun", || has_open(command.id(), &host.pins("web")));
        drop(lock);
        assert!(command.wait().unwrap().success());
        wait_until_live(host, 2);
        a_worker_is_replaced(host);
        running.stop();
    });
}
