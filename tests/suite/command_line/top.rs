//! `top` shows what is so, in a terminal and as JSON lines, and leaves nothing behind.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::Child,
    sync::mpsc::{Receiver, channel},
    thread,
};

use harness::{
    Host, Running,
    client::requests,
    needs_kernel,
    running::{PATIENCE, wait_until, wait_until_gone, watch},
};
use rustix::{
    fs::{Mode, OFlags, open},
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::Value;

/// `top` in a terminal of 80 columns and 24 lines.
struct Terminal {
    top: Child,
    keyboard: File,
    slave: OwnedFd,
    shown: String,
    output: Receiver<Vec<u8>>,
}

/// Both ends of a terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = open(&name, flags, Mode::empty()).unwrap();
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size).unwrap();
    (master, slave)
}

fn start(host: &Host, slave: &OwnedFd) -> Child {
    let mut command = host.balancer(&["top", "--interval", "200ms"]);
    let stdio = || slave.try_clone().unwrap();
    command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap()
}

impl Terminal {
    fn start(host: &Host) -> Self {
        let (master, slave) = terminal();
        let top = start(host, &slave);
        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut octets) {
                let _ = sender.send(octets[..count].to_vec());
            }
        });
        Self { top, keyboard, slave, shown: String::new(), output }
    }

    /// Waits until it shows this word, from here on: blanks between words are not written.
    fn wait_for(&mut self, text: &str) {
        while !self.shown.contains(text) {
            let more = self.output.recv_timeout(PATIENCE);
            let more = more.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.shown));
            self.shown += &String::from_utf8_lossy(&more);
        }
        self.shown.clear();
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether the terminal gives out lines and echoes, as a shell expects it.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// That it ends, well, and the terminal is as it was.
    fn ended(mut self) {
        wait_until_gone(&watch(self.top.id()), "top");
        assert!(self.top.wait().unwrap().success());
        assert!(self.is_cooked());
        // It left the alternate screen.
        self.wait_for("\x1b[?1049l");
    }
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
            // The second may have been shown with the first.
            let mut other = Terminal::start(host);
            other.wait_for(&worker.to_string());
            other.press("q");
            other.ended();
        }
        terminal.wait_for("round-robin");
        assert!(!terminal.is_cooked());
        terminal.press("\r");
        terminal.wait_for("answer");
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
        let mut top = start(host, &slave);
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
        assert!(pids.eq(group.workers().iter().map(|&pid| u64::from(pid))));
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
fn without_a_terminal_or_with_an_interval_of_nothing_it_is_refused() {
    Host::with(|host| {
        host.refuse(2, &["top"], &["no terminal", "balancer top --json"]);
        host.refuse(2, &["top", "--json", "--interval", "1ms"], &["at least 100ms"]);
        host.refuse(1, &["top", "--json", "--group", "none"], &["no group none"]);
    });
}
