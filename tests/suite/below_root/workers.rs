//! What workers are given, and what they could do with it.

use std::{
    fs,
    mem::forget,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use harness::{
    Host, Running,
    client::requests,
    line::SERVER,
    running::{send, wait_until, watch},
};
use rustix::{
    fs::{Mode, OFlags, open},
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    process::{PidfdGetfdFlags, Signal, pidfd_getfd},
};

const USER: &str = "nobody";

/// What a process has open: descriptor and what it is.
fn descriptors(pid: u32) -> Vec<(i32, String)> {
    let mut all: Vec<(i32, String)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().into_string().unwrap().parse().unwrap();
            let target = fs::read_link(entry.path()).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect();
    all.sort_unstable();
    all
}

/// The descriptors of a process that are maps, programs or links.
fn of_bpf(pid: u32) -> Vec<i32> {
    let is_bpf = |(_, target): &(i32, String)| target.contains("bpf");
    descriptors(pid).into_iter().filter(is_bpf).map(|(number, _)| number).collect()
}

/// A field of what the kernel says of a descriptor.
fn field(pid: u32, descriptor: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

/// The flags of the maps that a process has in its memory.
fn mapped(pid: u32) -> Vec<String> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut of_map = false;
    let mut flags = Vec::new();
    for line in smaps.lines() {
        match line.split_once(": ") {
            Some(("VmFlags", found)) if of_map => flags.push(found.to_owned()),
            Some((key, _)) if !key.contains(' ') => {}
            _ => of_map = line.contains("bpf-map"),
        }
    }
    flags
}

/// Has no map, but for a view of the group's record that it cannot change.
#[track_caller]
fn has_no_map(pid: u32) {
    assert_eq!(of_bpf(pid), [0; 0], "{:?}", descriptors(pid));
    for flags in mapped(pid) {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        // Neither writable, nor to be made so.
        assert!(!flags.contains(&"wr") && !flags.contains(&"mw"), "{flags:?}");
    }
}

#[test]
fn a_built_in_worker_has_no_map_and_still_knows_the_policy_in_force() {
    Host::with(|host| {
        for user in [&["--user", USER][..], &[]] {
            let mut running = host.run(&[&["--workers", "2"], user].concat());
            host.workers(None).into_iter().for_each(has_no_map);
            assert_eq!(mapped(host.workers(None)[0]).len(), 1);
            send(host.workers(None)[0], Signal::KILL);
            running.wait_for("is back as PID");
            host.succeed(&["reload"]);
            host.workers(None).into_iter().for_each(has_no_map);
            host.succeed(&["policy", "random"]);
            let answers = requests(running.address(), 4);
            assert!(answers.iter().all(|answer| answer.policy == "random"), "{answers:?}");
            running.stop();
        }
    });
}

/// Starts a command to which a file is left open as descriptor 9, as a careless starter would.
fn with_secret(mut command: Command) -> Command {
    let leave = || {
        let secret = open("/etc/shadow", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let ninth = fcntl_dupfd_cloexec(&secret, 9)?;
        fcntl_setfd(&ninth, FdFlags::empty())?;
        forget(ninth);
        Ok(())
    };
    // SAFETY: system calls only, nothing allocated, between fork and exec.
    unsafe { command.pre_exec(leave) };
    command
}

#[test]
fn what_was_left_open_to_balancer_is_not_left_to_its_workers() {
    Host::with_python(|host| {
        let bind = ["--self-bind", "--listen", "127.0.0.1:8090", "--"];
        let bind = [&bind[..], &["python3", SERVER, "bind", "8090"]].concat();
        for args in [&[][..], &["--user", USER], &["--", "sleep", "1000"], &bind] {
            let args = [&["run", "--workers", "1"], args].concat();
            let running = Running::start(with_secret(host.balancer(&args)));
            assert!(descriptors(running.pid()).iter().any(|(_, file)| file == "/etc/shadow"));
            let worker = host.workers(None)[0];
            let has = descriptors(worker);
            assert!(!has.iter().any(|(_, file)| file == "/etc/shadow"), "{has:?}");
            running.stop();
        }
    });
}

/// Runs two commands that say their load themselves, as somebody who may not look at them.
fn reporting(host: &Host) -> (Running, Vec<u32>) {
    let args = ["--workers", "2", "--user", USER, "--policy", "least-connections"];
    let running = host.run(&[&args[..], &["--load", "reported", "--", "sleep", "1000"]].concat());
    let workers = host.workers(None);
    for worker in &workers {
        let runs = || fs::read_to_string(format!("/proc/{worker}/comm")).unwrap_or_default();
        wait_until("the command to run", || runs() == "sleep\n");
    }
    (running, workers)
}

#[test]
fn a_command_has_its_input_its_output_its_socket_and_its_own_word() {
    Host::with(|host| {
        let (running, workers) = reporting(host);
        let mut words = Vec::new();
        for pid in workers {
            let has = descriptors(pid);
            assert_eq!(has.len(), 5, "{has:?}");
            assert!(has[3].1.starts_with("socket:"), "{has:?}");
            let [word] = of_bpf(pid)[..] else { panic!("{has:?}") };
            // An array of one word.
            let shape = ["map_type", "value_size", "max_entries"].map(|f| field(pid, word, f));
            assert_eq!(shape, ["2", "8", "1"]);
            words.push(field(pid, word, "map_id"));
        }
        assert_ne!(words[0], words[1]);
        running.stop();

        let running = host.run(&["--workers", "1", "--", "sleep", "1000"]);
        let has = descriptors(host.workers(None)[0]);
        assert!(has.len() == 4 && has[3].1.starts_with("socket:"), "{has:?}");
        running.stop();
    });
}

/// `BPF_MAP_FREEZE`: nobody may write the map any more by system calls, for good.
fn freeze(map: impl std::os::fd::AsFd) -> std::io::Result<()> {
    let map = map.as_fd().as_raw_fd();
    // SAFETY: the command reads one number.
    match unsafe { libc::syscall(libc::SYS_bpf, 22, &raw const map, size_of_val(&map)) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn a_worker_that_freezes_its_word_harms_nobody_but_itself() {
    Host::with(|host| {
        let (mut running, workers) = reporting(host);
        let [word] = of_bpf(workers[0])[..] else { panic!("no word") };
        let handle = watch(workers[0]);
        let word = pidfd_getfd(&handle, word, PidfdGetfdFlags::empty()).unwrap();
        freeze(word.as_fd()).unwrap();
        drop(word);
        let loads = || host.status()["members"].as_array().unwrap().len();
        assert_eq!(loads(), 2);
        host.succeed(&["policy", "round-robin"]);
        host.succeed(&["policy", "least-connections", "--load", "reported"]);
        send(workers[0], Signal::KILL);
        running.wait_for("is back as PID");
        host.succeed(&["reload"]);
        assert_eq!(loads(), 2);
        assert!(running.stop().status.success());
        assert!(host.is_clean());
    });
}

#[test]
fn a_slot_that_is_another_workers_begins_with_a_word_of_its_own_of_0() {
    Host::with(|host| {
        let (mut running, workers) = reporting(host);
        let id = |pid| field(pid, of_bpf(pid)[0], "map_id");
        let before = id(workers[0]);
        send(workers[0], Signal::KILL);
        running.wait_for("is back as PID");
        let ids: Vec<String> = host.workers(None).into_iter().map(id).collect();
        assert!(ids.len() == 2 && !ids.contains(&before), "{before}, then {ids:?}");
        for member in host.status()["members"].as_array().unwrap() {
            assert_eq!(member["load"], 0);
        }
        running.stop();
    });
}
