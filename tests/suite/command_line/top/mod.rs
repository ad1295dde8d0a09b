//! `top` shows what is so, in a terminal and as JSON lines, changes what is confirmed, and leaves nothing
//! behind.

mod terminal;

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
};

use harness::{
    Host, Running,
    client::requests,
    needs_kernel,
    running::{wait_until, wait_until_gone, watch},
};
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
    thread::CapabilitySet,
};
use serde_json::Value;

use self::terminal::{Terminal, start, terminal, top};

/// The states of the members, by slot.
fn states(host: &Host) -> Vec<String> {
    let status = host.status();
    let members = status["members"].as_array().unwrap().iter();
    members.map(|member| member["state"].as_str().unwrap().to_owned()).collect()
}

fn is_tracked(host: &Host) -> bool {
    host.status()["members"][0].get("busy").is_some()
}

fn sees_requests() -> bool {
    needs_kernel(6, 3)
}

#[test]
fn a_terminal_shows_each_worker_and_is_given_back_by_q() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let mut terminal = Terminal::start(host);
        for worker in running.workers() {
            terminal.wait_for(&worker.to_string());
        }
        terminal.wait_for("round-robin");
        assert!(!terminal.is_cooked());
        terminal.press("\r");
        terminal.wait_for("times to answer");
        terminal.press("t");
        terminal.wait_for("times until read");
        terminal.press("q");
        terminal.ended();
        assert!(!is_tracked(host));
        running.stop();
    });
}

#[test]
fn a_terminal_is_given_back_by_a_signal_too() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        for signal in [Signal::TERM, Signal::HUP] {
            let mut terminal = Terminal::start(host);
            terminal.wait_for("round-robin");
            harness::running::send(terminal.top.id(), signal);
            terminal.ended();
        }
        running.stop();
    });
}

#[test]
fn it_ends_with_its_terminal() {
    if !sees_requests() {
        return;
    }
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        let (master, slave) = terminal();
        let mut top = start(top(host), &slave);
        drop(slave);
        wait_until("it to look", || is_tracked(host));
        drop(master);
        wait_until_gone(&watch(top.id()), "top");
        // Whether what it wrote last came through or not.
        top.wait().unwrap();
        wait_until("the tracker to be off", || !is_tracked(host));
        running.stop();
    });
}

#[test]
fn a_worker_is_drained_and_resumed_with_y_and_with_no_other_key() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--name", "web"]);
        // By slot, which is not the order in which they became ready.
        let [first, second] = host.workers(None)[..] else { panic!("two workers") };
        let mut terminal = Terminal::start(host);
        terminal.wait_for("d drain");
        for key in ["n", "\r", "Y"] {
            terminal.press("d");
            terminal.wait_for(&format!("drain PID {first} of web? [y/N]"));
            terminal.press(key);
            terminal.wait_for("d drain");
        }
        assert_eq!(states(host), ["live", "live"]);
        terminal.press("jd");
        terminal.wait_for(&format!("drain PID {second} of web? [y/N]"));
        terminal.press("y");
        terminal.wait_for(&format!("web: PID {second} is draining"));
        assert_eq!(states(host), ["live", "draining"]);
        terminal.press("r");
        terminal.wait_for(&format!("resume PID {second} of web? [y/N]"));
        terminal.press("y");
        terminal.wait_for(&format!("web: PID {second} is live"));
        assert_eq!(states(host), ["live", "live"]);
        terminal.press("q");
        terminal.ended();
        running.stop();
    });
}

#[test]
fn the_last_live_worker_is_refused_in_the_words_of_the_command() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1"]);
        let refusal = host.fail(1, &["drain", &running.workers()[0].to_string()]);
        let mut terminal = Terminal::start(host);
        terminal.wait_for("d drain");
        terminal.press("d");
        terminal.wait_for("[y/N]");
        terminal.press("y");
        terminal.wait_for(refusal.strip_prefix("balancer: ").unwrap().trim());
        assert_eq!(states(host), ["live"]);
        terminal.press("q");
        terminal.ended();
        running.stop();
    });
}

#[test]
fn a_policy_is_chosen_from_a_list_and_a_weight_is_typed() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1", "--name", "web", "--avoid-stalled", "50ms"]);
        let worker = running.workers()[0];
        let mut terminal = Terminal::start(host);
        terminal.wait_for("p policy");
        terminal.press("w70\r");
        terminal.wait_for(&format!("change the weight of PID {worker} of web: 1 → 70? [y/N]"));
        terminal.press("y");
        // As the command says it.
        let warning = "WARN the policy round-robin ignores weights";
        terminal.wait_for(&format!("web: weight of PID {worker} is 70 {warning}"));
        assert_eq!(host.status()["members"][0]["weight"], 70);
        terminal.press("p");
        terminal.wait_for("One worker after another, weights ignored");
        terminal.press("\x1b");
        terminal.wait_for("p policy");
        // The one below that in force; options stay as they are.
        terminal.press("pj\r");
        let switch = "round-robin --avoid-stalled 50ms → weighted --avoid-stalled 50ms";
        terminal.wait_for(&format!("switch the policy of web: {switch}? [y/N]"));
        assert_eq!(host.status()["policy"], "round-robin");
        terminal.press("y");
        terminal.wait_for(&format!("(by slot) web: {switch}"));
        assert_eq!(host.status()["policy"], "weighted");
        terminal.press("q");
        terminal.ended();
        running.stop();
    });
}

#[test]
fn it_goes_on_drawing_while_a_change_waits_for_the_lock_and_ends_after_the_change() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--name", "busy"]);
        let mut terminal = Terminal::start(host);
        terminal.wait_for("d drain");
        let directory = File::open(host.pins("busy")).unwrap();
        flock(&directory, FlockOperation::LockExclusive).unwrap();
        terminal.press("d");
        terminal.wait_for("[y/N]");
        terminal.press("y");
        terminal.wait_for("waiting for the group's lock");
        terminal.press("\r");
        terminal.wait_for("times to answer");
        terminal.press("q");
        terminal.wait_for_output("\x1b[?1049l");
        assert_eq!(states(host), ["live", "live"]);
        drop(directory);
        // What came of it is not lost.
        terminal.wait_for_output(&format!("busy: PID {} is draining\r\n", host.workers(None)[0]));
        assert_eq!(states(host), ["draining", "live"]);
        terminal.ended();
        running.stop();
    });
}

#[test]
fn without_the_rights_of_the_commands_a_change_is_refused() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let lacking = CapabilitySet::NET_ADMIN;
        let mut terminal = Terminal::of(host.balancer_without(lacking, &["top"]));
        terminal.wait_for("d drain");
        terminal.press("d");
        terminal.wait_for("[y/N]");
        terminal.press("y");
        terminal.wait_for("this needs CAP_NET_ADMIN");
        assert_eq!(states(host), ["live", "live"]);
        terminal.press("q");
        terminal.ended();
        running.stop();
    });
}

#[test]
fn requests_between_two_lines_of_json_are_in_the_second() {
    if !sees_requests() {
        return;
    }
    Host::with(|host| {
        let group = host.run(&["--workers", "2"]);
        let mut top = Running::spawn(host.balancer(&["top", "--json", "--interval", "100ms"]));
        let mut line = || -> Value { serde_json::from_str(&top.wait_for("{")).unwrap() };
        let first = line();
        let pids = first["members"].as_array().unwrap().iter().map(|m| m["pid"].as_u64().unwrap());
        assert!(pids.eq(host.workers(None).into_iter().map(u64::from)));
        assert!(is_tracked(host));
        requests(group.address(), 20);
        let mut answered = 0.0;
        wait_until("all answers to be shown", || {
            let line = line();
            let members = line["members"].as_array().unwrap();
            let rates = members.iter().map(|m| m["requests_per_second"].as_f64().unwrap());
            answered += rates.sum::<f64>() * line["interval"].as_f64().unwrap();
            answered > 19.5
        });
        assert!(answered < 20.5, "{answered}");
        top.signal(Signal::TERM);
        assert!(top.ended().status.success());
        wait_until("the tracker to be off", || !is_tracked(host));
        group.stop();
    });
}

#[test]
fn as_many_lines_are_printed_as_were_asked_for_and_none_without_a_group() {
    Host::with(|host| {
        let args = ["top", "--json", "--interval", "100ms", "--count", "2"];
        assert_eq!(host.succeed(&args), "");
        let running = host.run(&["--workers", "1"]);
        assert_eq!(host.succeed(&args).lines().count(), 2);
        running.stop();
    });
}

#[test]
fn of_a_group_that_cannot_be_read_the_reason_is_said_once() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1", "--name", "web"]);
        DirBuilder::new().mode(0o700).create(host.pins("broken")).unwrap();
        let args = ["top", "--json", "--interval", "100ms", "--count", "3"];
        let output = host.output(&args);
        assert!(output.status.success(), "{output:?}");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(stdout.matches("\"name\":\"web\"").count(), 3, "{stdout}");
        let warned: Vec<&str> = stderr.lines().filter(|line| line.contains("broken")).collect();
        let [warned] = warned[..] else { panic!("{stderr}") };
        assert!(warned.contains("WARN") && warned.contains("cannot be read: "), "{warned}");
        let error = host.fail(1, &[&args[..], &["--group", "broken"]].concat());
        assert!(error.contains("broken"), "{error}");
        // Of another group there is nothing to say.
        let output = host.output(&[&args[..], &["--group", "web"]].concat());
        assert_eq!((text(&output.stderr), output.status.success()), ("", true));
        let mut terminal = Terminal::start(host);
        terminal.wait_for("the group broken is not shown, because it cannot be read");
        terminal.press("q");
        terminal.ended();
        std::fs::remove_dir(host.pins("broken")).unwrap();
        running.stop();
    });
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).unwrap()
}

#[test]
fn without_a_terminal_or_with_an_interval_of_nothing_it_is_refused() {
    Host::with(|host| {
        host.refuse(2, &["top"], &["no terminal", "balancer top --json"]);
        host.refuse(2, &["top", "--json", "--interval", "1ms"], &["at least 100ms"]);
        host.refuse(1, &["top", "--json", "--group", "none"], &["no group none"]);
    });
}
