//! Workers that run as somebody else: served as ever, with none of root's rights.

use std::fs;

use harness::{
    Host,
    client::requests,
    line::{SERVER, ask},
    running::send,
    there,
};
use rustix::{process::Signal, thread::CapabilitySet};

const ADDRESS: &str = "127.0.0.1:8090";
const USER: &str = "nobody";

/// What /proc says of a process in a line of its status.
fn status(pid: u32, name: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect()
}

/// It is the user's in every respect, and may do nothing that the user may not.
#[track_caller]
fn is_nobodys(pid: u32) {
    let user: balancer::user::User = USER.parse().unwrap();
    let (uid, gid) = ids(user.name());
    assert_eq!(status(pid, "Uid"), vec![uid; 4], "PID {pid}");
    assert_eq!(status(pid, "Gid"), vec![gid.clone(); 4], "PID {pid}");
    assert_eq!(status(pid, "Groups"), [gid]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), ["0000000000000000"], "{set} of PID {pid}");
    }
    // Nor will it have any by a program that is set-user-ID.
    assert_eq!(status(pid, "NoNewPrivs"), ["1"], "PID {pid}");
}

fn ids(user: &str) -> (String, String) {
    (entry(user, 2), entry(user, 3))
}

fn home(user: &str) -> String {
    entry(user, 5)
}

fn entry(user: &str, field: usize) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with(&format!("{user}:"))).unwrap();
    line.split(':').nth(field).unwrap().to_owned()
}

#[test]
fn built_in_workers_serve_and_are_counted_as_another_user() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2", "--user", USER]);
        host.workers(None).into_iter().for_each(is_nobodys);
        send(host.workers(None)[0], Signal::KILL);
        running.wait_for("is back as PID");
        host.succeed(&["reload"]);
        host.workers(None).into_iter().for_each(is_nobodys);
        let answers = requests(running.address(), 20);
        // What they know from root's maps.
        assert!(answers.iter().all(|answer| answer.policy == "round-robin"));
        let ended = running.stop();
        assert!(ended.stdout.contains("20 connections"), "{ended:?}");
        assert!(host.is_clean());
    });
}

#[test]
fn commands_run_as_another_user_whether_they_are_handed_their_socket_or_bind() {
    if !there("python3") {
        return;
    }
    Host::with(|host| {
        let readable = tempfile::tempdir().unwrap();
        let script = readable.path().join("line.py");
        fs::copy(SERVER, &script).unwrap();
        for path in [readable.path(), &script] {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let script = script.to_str().unwrap();
        let low = ["--listen", "127.0.0.1:80", "--ready", "notify", "--"];
        let handed = [&low[..], &["python3", script, "handed", "notify"]].concat();
        let bind = ["--self-bind", "--listen", ADDRESS, "--", "python3", script, "bind", "8090"];
        for args in [&handed[..], &bind] {
            let running = host.run(&[&["--workers", "2", "--user", USER], args].concat());
            let workers = host.workers(None);
            workers.iter().copied().for_each(is_nobodys);
            let environment = fs::read_to_string(format!("/proc/{}/environ", workers[0])).unwrap();
            for variable in ["USER=nobody", "LOGNAME=nobody", &format!("HOME={}", home(USER))] {
                assert!(environment.split('\0').any(|set| set == variable), "{environment}");
            }
            assert!(workers.contains(&ask(running.address()).unwrap()));
            host.succeed(&["reload"]);
            host.workers(None).into_iter().for_each(is_nobodys);
            assert!(running.stop().status.success());
        }
    });
}

#[test]
fn who_is_no_user_or_keeps_all_rights_is_refused() {
    Host::with(|host| {
        host.refuse(2, &["run", "--user", "no-such-user"], &["no user no-such-user"]);
        host.refuse(2, &["run", "--user", "root"], &["root has all rights"]);
        let mut lacking = host.balancer_without(CapabilitySet::SETUID, &["run", "--user", USER]);
        let output = lacking.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("CAP_SETUID"), "{output:?}");
        assert!(host.is_clean());
    });
}
