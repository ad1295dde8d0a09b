//! `balancer scale`: more workers or fewer, and nothing is lost.

use harness::{
    Host, Running,
    client::request,
    line::{Client, SERVER},
    load::Load,
    running::{send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:8080"];

fn run(host: &Host, args: &[&str]) -> Running {
    host.run(&[&LISTEN[..], args].concat())
}

/// How many workers are live.
fn live(host: &Host) -> usize {
    host.workers(Some("live")).len()
}

#[test]
fn two_become_eight_and_then_one_under_load_and_nothing_is_lost() {
    Host::with(|host| {
        let running = run(host, &["--workers", "2"]);
        let address = running.address();
        let load = Load::start(move || request(address));
        for (count, word) in
            [("8", "8 workers serve"), ("1", "1 workers serve"), ("2", "2 workers")]
        {
            let said = host.succeed(&["scale", count]);
            assert!(said.contains(word), "{said}");
            assert_eq!(live(host).to_string(), count);
            load.goes_on();
        }
        load.end();
        let ended = running.stop();
        assert!(ended.stdout.contains("worker 7 has joined as PID"), "{ended:?}");
    });
}

#[test]
fn those_with_the_highest_numbers_go_and_what_they_have_is_finished_first() {
    Host::with_python(|host| {
        let command = ["--", "python3", SERVER, "handed"];
        let mut running =
            run(host, &[&["--workers", "3", "--idle-grace", "off"][..], &command].concat());
        let before = host.workers(Some("live"));
        let mut clients = [(); 3].map(|()| Client::connect(running.address()).unwrap());
        clients.iter_mut().for_each(|client| {
            client.ask().unwrap();
        });
        let scaling = host.start(&["scale", "1"]);
        running.wait_for("1 workers from now on, 3 before");
        wait_until("two that finish", || host.workers(Some("draining")).len() == 2);
        // They are served on.
        clients.iter_mut().for_each(|client| {
            client.ask().unwrap();
        });
        drop(clients);
        assert!(scaling.ended().status.success());
        assert_eq!(host.workers(None), [before[0]]);
        running.stop();
    });
}

#[test]
fn a_reload_and_a_takeover_are_of_as_many_as_there_are_to_be() {
    Host::with(|host| {
        let mut running = run(host, &["--workers", "1"]);
        host.succeed(&["scale", "3"]);
        host.succeed(&["reload"]);
        running.line("reloading 3 workers");
        let process = watch(running.pid());
        send(running.pid(), Signal::KILL);
        wait_until_gone(&process, "the agent");
        drop(running);
        let running = run(host, &["--takeover"]);
        assert_eq!(live(host), 3);
        host.succeed(&["scale", "2"]);
        assert_eq!(live(host), 2);
        running.stop();
    });
}

#[test]
fn one_that_dies_after_it_was_added_is_started_again_and_one_that_was_taken_away_is_not() {
    Host::with(|host| {
        let mut running = run(host, &["--workers", "1"]);
        host.succeed(&["scale", "2"]);
        send(host.workers(Some("live"))[1], Signal::KILL);
        running.wait_for("worker 1 is back as PID");
        host.succeed(&["scale", "1"]);
        assert_eq!(host.workers(None).len(), 1);
        host.succeed(&["scale", "2"]);
        running.wait_for("worker 1 has joined as PID");
        running.stop();
    });
}

#[test]
fn of_commands_at_once_one_has_its_way_and_none_is_taken_for_a_reload() {
    Host::with(|host| {
        let running = run(host, &["--workers", "1"]);
        let scaling = ["4", "3", "4", "3"].map(|count| host.start(&["scale", count]));
        scaling.into_iter().for_each(|command| drop(command.ended()));
        wait_until("one of both", || {
            let workers = host.workers(None).len();
            [3, 4].contains(&workers) && workers == live(host)
        });
        let ended = running.stop();
        assert!(!ended.stdout.contains("reloading"), "{ended:?}");
    });
}

#[test]
fn fewer_are_refused_where_balancer_does_not_choose_and_all_stay() {
    Host::with(|host| {
        let running = run(host, &["--workers", "2", "--policy", "kernel"]);
        let refusal = host.fail(1, &["scale", "1"]);
        assert!(refusal.contains("keeps 2 workers: its output says why"), "{refusal}");
        assert_eq!(live(host), 2);
        let ended = running.stop();
        assert!(ended.stderr.contains("2 workers stay, and not 1: under the policy kernel"));
    });
}

#[test]
fn fewer_are_refused_if_nobody_of_those_that_stay_gets_connections() {
    Host::with(|host| {
        let running = run(host, &["--workers", "2"]);
        let first = host.workers(Some("live"))[0].to_string();
        host.succeed(&["drain", &first]);
        host.fail(1, &["scale", "1"]);
        host.succeed(&["resume", &first]);
        host.succeed(&["scale", "1"]);
        let ended = running.stop();
        assert!(ended.stderr.contains("nobody of the first 1 gets connections"), "{ended:?}");
    });
}

#[test]
fn one_that_is_added_again_and_cannot_start_ends_nobody_else() {
    Host::with(|host| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!(
            "test $BALANCER_WORKER = 1 && test ! -s {0} && exit 3; sleep 1000",
            file.path().display()
        );
        std::fs::write(file.path(), "x").unwrap();
        let mut running = run(host, &["--workers", "2", "--", "sh", "-c", &script]);
        host.succeed(&["scale", "1"]);
        std::fs::write(file.path(), "").unwrap();
        let scaling = host.start(&["scale", "2"]);
        running.wait_for("worker 1 (PID");
        running.wait_for("starting it again");
        assert_eq!(live(host), 1);
        std::fs::write(file.path(), "x").unwrap();
        assert!(scaling.ended().status.success());
        running.stop();
    });
}

#[test]
fn servers_that_balancer_has_not_started_are_not_scaled_and_none_is_no_number() {
    Host::with_python(|host| {
        let _servers = harness::servers::Server::several(2, "tcp", LISTEN[1]);
        host.succeed(&["attach", LISTEN[1], "--once"]);
        let refusal = host.fail(1, &["scale", "3"]);
        assert!(refusal.contains("were not started by balancer"), "{refusal}");
        assert!(host.fail(2, &["scale", "0"]).contains("choose 1 to 1024"));
    });
}
