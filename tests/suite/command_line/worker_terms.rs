//! What `run` says to its workers, and how it ends them: a number that stays, a signal of the server's own, no
//! more patience and no more tries than it was told.

use harness::{
    Host, Running,
    running::{send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;

/// A command that says its number, in both ways, and how it was asked to end. It has its socket, and does not need it.
const WORKER: &str = "\
trap 'echo asked by QUIT; exit 0' QUIT
trap 'echo asked by TERM' TERM
echo number $BALANCER_WORKER, argument $0
while :; do sleep 0.1; done";

/// Runs so many with these arguments.
fn run(host: &Host, workers: &str, args: &[&str]) -> Running {
    let command = ["--", "sh", "-c", WORKER, "n{worker}"];
    host.run(&[&["--workers", workers, "--drain-timeout", "60s"], args, &command].concat())
}

/// Kills a worker.
fn end(pid: u32) {
    let process = watch(pid);
    send(pid, Signal::KILL);
    wait_until_gone(&process, "the worker");
}

/// Kills a worker and waits for its successor.
fn kill(running: &mut Running, pid: u32) {
    end(pid);
    running.wait_for("is back as PID");
}

#[test]
fn a_worker_keeps_its_number_when_it_is_started_again_and_when_it_is_replaced() {
    Host::with(|host| {
        let mut running = run(host, "3", &["--stop-signal", "QUIT"]);
        for index in 0..3 {
            running.line(&format!("[{index}] number {index}, argument n{index}"));
        }
        let workers = host.workers(Some("live"));
        kill(&mut running, workers[1]);
        assert_eq!(running.line("[1] number 1"), "[1] number 1, argument n1");
        host.succeed(&["reload"]);
        for index in 0..3 {
            running.wait_for(&format!("[{index}] number {index}, argument n{index}"));
        }
        running.stop();
    });
}

#[test]
fn after_a_takeover_numbers_are_those_that_workers_were_started_with() {
    Host::with(|host| {
        let listen = ["--listen", "127.0.0.1:8080", "--stop-signal", "QUIT"];
        let mut running = run(host, "3", &listen);
        let workers = host.workers(Some("live"));
        kill(&mut running, workers[0]);
        running.kill();
        // In the order of slots the first is the last now.
        let now = host.workers(Some("live"));
        assert_eq!(now[..2], workers[1..]);
        end(now[1]);
        let mut running = run(host, "3", &[&listen[..], &["--takeover"]].concat());
        let line = running.line("is back as PID");
        assert!(line.contains("worker 2 is back"), "{line}");
        end(now[2]);
        running.wait_for(&format!("worker 0 (PID {}", now[2]));
        running.stop();
    });
}

#[test]
fn a_command_is_asked_to_end_by_the_signal_that_it_was_given() {
    Host::with(|host| {
        let running = run(host, "2", &["--stop-signal", "SIGQUIT"]);
        let ended = running.stop();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(ended.stdout.matches("asked by QUIT").count(), 2, "{ended:?}");
    });
}

#[test]
fn a_worker_that_does_not_end_in_time_is_killed_at_the_end_of_all_too() {
    Host::with(|host| {
        let running = run(host, "2", &["--kill-after", "300ms"]);
        let workers: Vec<_> = host.workers(Some("live")).into_iter().map(watch).collect();
        let ended = running.stop();
        let said = "2 workers have not ended within 300ms of SIGTERM, and are killed";
        assert!(ended.stderr.contains(said), "{ended:?}");
        workers.iter().for_each(|worker| wait_until_gone(worker, "a worker"));
        assert!(host.is_clean());
    });
}

#[test]
fn in_a_reload_one_that_does_not_end_in_time_is_killed() {
    Host::with(|host| {
        let mut running = run(host, "1", &["--kill-after", "300ms"]);
        host.succeed(&["reload"]);
        wait_until("the old worker gone", || host.workers(None).len() == 1);
        running.line("number 0");
        let ended = running.stop();
        assert!(ended.stderr.contains("has not ended within 300ms of SIGTERM"), "{ended:?}");
    });
}

#[test]
fn a_worker_that_dies_more_often_than_it_may_ends_all() {
    Host::with(|host| {
        let running = host.start(&[
            "run",
            "--listen",
            "127.0.0.1:0",
            "--workers",
            "2",
            "--max-restarts",
            "2",
            "--",
            "sh",
            "-c",
            "sleep 1.2; test $BALANCER_WORKER = 1 && kill -9 $$; sleep 1000",
        ]);
        let ended = running.ended();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.contains("as often as --max-restarts allows"), "{ended:?}");
        assert_eq!(ended.stdout.matches("starting it again").count(), 2, "{ended:?}");
        assert!(host.is_clean());
    });
}

#[test]
fn a_signal_that_gives_no_time_to_finish_is_refused() {
    Host::with(|host| {
        let args = ["run", "--stop-signal", "KILL", "--", "server"];
        host.refuse(2, &args, &["`KILL` is no signal that asks a server to end", "QUIT"]);
    });
}

#[test]
fn those_that_serve_finish_when_another_has_died_too_often() {
    Host::with(|host| {
        // Worker 0 takes longer to end than those that never got ready may.
        let script = "trap 'sleep 6; echo finished; exit 0' TERM
            if test $BALANCER_WORKER = 1; then sleep 1.2; kill -9 $$; fi
            while :; do sleep 0.1; done";
        let args = ["run", "--listen", "127.0.0.1:0", "--workers", "2", "--max-restarts", "0"];
        let running = host.start(&[&args[..], &["--", "sh", "-c", script]].concat());
        let ended = running.ended();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stdout.contains("[0] finished"), "{ended:?}");
    });
}
