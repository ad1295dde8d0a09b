//! What cannot be done is refused in one sentence that names value, limit and remedy, with the
//! exit code that says whose fault it is, and leaves nothing behind.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Command, Output},
};

use harness::Host;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use rustix::{
    mount::{UnmountFlags, unmount},
    thread::{CapabilitySet, CapabilitySets},
};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_policy_is_answered_with_the_known_ones() {
    Host::with(|host| {
        let known = ["`nonsense`", "kernel", "hash", "round-robin", "weighted", "random"];
        let quoted: Vec<String> = known.iter().map(|part| part.replace('`', "'")).collect();
        let parts: Vec<&str> = quoted.iter().map(String::as_str).collect();
        host.refuse(2, &["run", "--policy", "nonsense"], &parts);
    });
}

#[test]
fn weights_out_of_range_or_number_are_refused() {
    Host::with(|host| {
        for weight in ["0", "1001", "x"] {
            let parts = [&format!("`{weight}`"), "1 to 1000"];
            host.refuse(2, &["run", "--weights", &format!("5,{weight}")], &parts);
            host.refuse(2, &["weight", &format!("1={weight}")], &parts);
        }
        host.refuse(
            2,
            &["run", "--workers", "2", "--weights", "5,3,2"],
            &["3 weights", "2 workers"],
        );
    });
}

#[test]
fn no_workers_and_too_many_are_refused_with_the_limit() {
    Host::with(|host| {
        for workers in ["0", "5000"] {
            host.refuse(2, &["run", "--workers", workers], &[workers, "1 to 1024", "--workers"]);
        }
    });
}

#[test]
fn a_port_taken_without_so_reuseport_is_refused_with_who_has_it() {
    Host::with(|host| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = format!("PID {}", std::process::id());
        host.refuse(1, &["run", "--listen", &address], &[&address, "served already", &own]);
        let everywhere = format!("0.0.0.0:{}", listener.local_addr().unwrap().port());
        let parts = [&everywhere, "is taken", &own, "SO_REUSEPORT", "another address"];
        host.refuse(1, &["run", "--listen", &everywhere], &parts);
    });
}

#[test]
fn a_port_taken_under_another_uid_is_refused_with_that_uid() {
    Host::with(|host| {
        // Ours as another uid sees it: the workers' sockets are root's.
        let running = host.run(&["--workers", "1", "--listen", "0.0.0.0:0", "--name", "theirs"]);
        let address = format!("127.0.0.1:{}", running.address().port());
        let mut command = host.balancer(&["run", "--listen", &address]);
        let output = unsafe_as_uid(&mut command, 12345).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = text(&output);
        for part in [&address, "is taken", "uid 0", "ours is 12345"] {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        running.stop();
    });
}

/// Runs a command under another uid with the capabilities of root.
fn unsafe_as_uid(command: &mut Command, uid: u32) -> &mut Command {
    let keep = CapabilitySet::BPF
        | CapabilitySet::NET_ADMIN
        | CapabilitySet::SYS_ADMIN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::SYS_PTRACE;
    let become_user = move || {
        rustix::thread::set_keep_capabilities(true)?;
        let uid = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: keep };
        rustix::thread::set_capabilities(None, sets)?;
        for capability in keep.iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
        Ok(())
    };
    // SAFETY: system calls only, nothing allocated, between fork and exec.
    unsafe { command.pre_exec(become_user) }
}

#[test]
fn an_address_of_no_interface_is_refused() {
    Host::with(|host| {
        host.refuse(
            1,
            &["run", "--listen", "192.0.2.1:80"],
            &["192.0.2.1", "ip address", "0.0.0.0"],
        );
        host.refuse(2, &["run", "--listen", "nowhere"], &["`nowhere`", "127.0.0.1:8080"]);
    });
}

#[test]
fn without_privilege_the_capability_and_the_sudo_line_are_named() {
    Host::with(|host| {
        for (verb, lacking, name) in [
            ("run", CapabilitySet::BPF | CapabilitySet::SYS_ADMIN, "CAP_BPF"),
            ("run", CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
            ("detach", CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        ] {
            let output = host.balancer_without(lacking, &[verb]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let message = text(&output);
            assert!(message.contains(name) && message.contains("sudo"), "{message}");
            assert!(host.is_clean());
        }
    });
}

#[test]
fn a_bpffs_that_can_be_neither_found_nor_mounted_is_refused() {
    Host::with(|host| {
        host.refuse(1, &["--bpffs", "/nowhere", "run"], &["/nowhere", "--bpffs"]);
        host.refuse(1, &["--bpffs", "/proc/self", "run"], &["/proc/self", "mount -t bpf"]);
        assert!(host.fail(1, &["--bpffs", "/nowhere", "status"]).contains("no group is steered"));
    });
}

#[test]
fn a_bpffs_that_lacks_at_its_usual_place_is_mounted_and_said_so() {
    Host::with(|host| {
        // In this host's own view of mounts; nobody else's changes.
        while unmount("/sys/fs/bpf", UnmountFlags::DETACH).is_ok() {}
        let args = ["--bpffs", "/sys/fs/bpf", "run", "--listen", "127.0.0.1:0"];
        let running = harness::Running::start(host.balancer(&args));
        let ended = running.stop();
        assert!(ended.status.success() && ended.stderr.contains("mounted bpffs"), "{ended:?}");
    });
}

#[test]
fn a_second_run_of_a_group_is_refused_with_how_to_stop_the_first() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--name", "first"]);
        let (listen, pid) = (running.address().to_string(), running.pid().to_string());
        let message = host.fail(1, &["run", "--listen", &listen]);
        for part in [&*listen, "first", "round-robin", &pid, &format!("kill {pid}")] {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        let message = host.fail(1, &["run", "--listen", "127.0.0.1:0", "--name", "first"]);
        assert!(message.contains("--name") && message.contains(&listen), "{message}");
        harness::client::requests(running.address(), 4);
        assert_eq!(host.status()["members"][0]["selected"], 2);
        running.stop();
        assert!(host.is_clean());
    });
}

#[test]
fn commands_for_a_group_that_is_not_there_say_so() {
    Host::with(|host| {
        for args in [&["status"][..], &["policy", "hash"], &["weight", "1=1"], &["detach"]] {
            host.refuse(1, args, &["no group", "balancer run"]);
        }
    });
}

#[test]
fn a_pid_that_is_no_worker_is_refused_with_those_that_are() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2"]);
        let worker = running.workers()[0];
        let message = host.fail(1, &["weight", &format!("{worker}=9"), "1=5"]);
        assert!(message.contains("PID 1 ") && message.contains(&worker.to_string()), "{message}");
        assert_eq!(host.status()["members"][0]["weight"], 1, "half of it was done");
        running.stop();
    });
}

#[test]
fn a_program_that_the_verifier_refuses_is_shown_by_the_verifiers_last_lines() {
    Host::with(|host| {
        let mut bytes = balancer_steering::steering::object_bytes().unwrap().into_owned();
        let at = {
            let object = object::File::parse(&*bytes).unwrap();
            let symbol = object.symbols().find(|s| s.name() == Ok("bal_round_robin")).unwrap();
            let section = object.section_by_index(symbol.section_index().unwrap()).unwrap();
            usize::try_from(section.file_range().unwrap().0 + symbol.address()).unwrap()
        };
        // r0 = r9: nothing was ever put into r9.
        bytes[at..at + 8].copy_from_slice(&[0xbf, 0x90, 0, 0, 0, 0, 0, 0]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let output = host.balancer(&["run"]).env("BALANCER_OBJECT", file.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = text(&output);
        for part in ["refused the program bal_round_robin", "verifier's last lines", "R9 !read_ok"]
        {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        assert!(message.lines().count() < 20, "{message}");
        assert!(host.is_clean());
    });
}

#[test]
fn a_file_that_is_no_object_is_refused() {
    Host::with(|host| {
        let output =
            host.balancer(&["run"]).env("BALANCER_OBJECT", "/etc/passwd").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains("cannot load the eBPF object"), "{output:?}");
        assert!(host.is_clean());
    });
}
