//! A hangup is a reload, or the end of the terminal that balancer runs in.

use std::{
    mem::forget,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Command,
};

use harness::{
    Host, Running,
    host::balancer,
    running::{all_new, wait_until},
};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Signal, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

#[test]
fn a_hangup_asks_for_a_reload() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        let before = host.workers(None);
        running.signal(Signal::HUP);
        running.wait_for("(2 of 2 reloaded)");
        all_new(&before, &host.workers(None));
        running.stop();
    });
}

/// Starts a command in a session of its own, in a terminal that is gone when it is dropped.
fn in_terminal(mut command: Command) -> (Running, OwnedFd) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let take = move || {
        setsid()?;
        // The first that a session leader opens is its own.
        forget(open(&name, OFlags::RDWR, Mode::empty())?);
        Ok(())
    };
    // SAFETY: system calls only, nothing allocated, between fork and exec.
    unsafe { command.pre_exec(take) };
    (Running::start(command), terminal)
}

#[test]
fn without_its_terminal_it_stops_unless_it_was_started_by_nohup() {
    Host::with(|host| {
        let (running, terminal) = in_terminal(host.balancer(&["run", "--workers", "1"]));
        let before = host.workers(None);
        running.signal(Signal::HUP);
        wait_until("a reload", || host.workers(Some("live")) != before);
        drop(terminal);
        let ended = running.ended();
        assert!(ended.status.success() && ended.stdout.contains("stopping"), "{ended:?}");
        assert!(host.is_clean());

        let mut nohup = Command::new("nohup");
        nohup.env("BALANCER_BPFFS", host.bpffs()).arg(balancer()).args(["run", "--workers", "1"]);
        let (mut running, terminal) = in_terminal(nohup);
        let before = host.workers(None);
        drop(terminal);
        host.succeed(&["reload"]);
        running.wait_for("(1 of 1 reloaded)");
        all_new(&before, &host.workers(None));
        let ended = running.stop();
        assert_eq!(ended.stdout.matches("reloading").count(), 1, "{ended:?}");
    });
}
