//! Whose pins are used: made for root alone, and refused where anybody else could have made or changed
//! them.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use harness::{Host, client::requests};
use rustix::{fs::Mode, process::umask};

const STRANGER: u32 = 1000;

#[test]
fn pins_are_roots_alone_whatever_the_umask() {
    Host::with(|host| {
        // Of this thread's copy, so of nobody else's; `balancer` inherits it.
        let args = ["--workers", "2", "--name", "web", "--policy", "least-connections"];
        let before = umask(Mode::empty());
        let running = host.run(&args);
        host.succeed(&["policy", "hash"]);
        umask(before);
        let pins = host.pins("web");
        let mode = |path: &Path| {
            let metadata = fs::symlink_metadata(path).unwrap();
            (metadata.uid(), metadata.mode() & 0o7777)
        };
        assert_eq!(mode(pins.parent().unwrap()), (0, 0o700));
        assert_eq!(mode(&pins), (0, 0o700));
        let all: Vec<PathBuf> = fs::read_dir(&pins).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(all.len() > 15, "{all:?}");
        for pin in all {
            assert_eq!(mode(&pin), (0, 0o600), "{}", pin.display());
        }
        running.stop();
    });
}

/// What somebody does to pins, and what is said of it.
struct Meddling {
    /// Where, from the bpffs on.
    at: &'static str,
    what: fn(&Path),
    said: &'static str,
}

fn belongs_to_a_stranger(path: &Path) {
    chown(path, Some(STRANGER), None).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Puts it aside, and a link to there in its place.
fn becomes_a_link(path: &Path) {
    let aside = path.ancestors().find(|path| path.ends_with("balancer")).unwrap();
    let aside = aside.with_file_name("aside");
    fs::rename(path, &aside).unwrap();
    symlink(&aside, path).unwrap();
}

const MEDDLINGS: [Meddling; 11] = [
    Meddling { at: "", what: belongs_to_a_stranger, said: "belongs to UID 1000" },
    Meddling { at: "balancer", what: belongs_to_a_stranger, said: "belongs to UID 1000" },
    Meddling { at: "balancer/web", what: belongs_to_a_stranger, said: "belongs to UID 1000" },
    Meddling { at: "balancer/web/TABLE", what: belongs_to_a_stranger, said: "belongs to UID 1000" },
    Meddling {
        at: "",
        what: |path| set_mode(path, 0o777),
        said: "can be written by others (mode 0777)",
    },
    Meddling {
        at: "balancer",
        what: |path| set_mode(path, 0o702),
        said: "can be written by others (mode 0702)",
    },
    Meddling {
        at: "balancer/web",
        what: |path| set_mode(path, 0o720),
        said: "can be written by others (mode 0720)",
    },
    Meddling {
        at: "balancer/web/CONTROL",
        what: |path| set_mode(path, 0o606),
        said: "can be written by others (mode 0606)",
    },
    Meddling { at: "balancer", what: becomes_a_link, said: "is a symbolic link" },
    Meddling { at: "balancer/web", what: becomes_a_link, said: "is a symbolic link" },
    Meddling { at: "balancer/web/SOCKETS", what: becomes_a_link, said: "is a symbolic link" },
];

#[test]
fn pins_that_somebody_else_could_have_made_or_changed_are_refused_by_every_command() {
    Host::with(|host| {
        for Meddling { at, what, said } in MEDDLINGS {
            let running = host.run(&["--workers", "2", "--name", "web"]);
            let listen = running.address().to_string();
            let worker = running.workers()[0].to_string();
            let path = host.bpffs().join(at);
            let path = path.to_str().unwrap().trim_end_matches('/');
            what(Path::new(path));
            for args in [
                &["status"][..],
                &["status", "--group", "web", "--json"],
                &["groups"],
                &["policy", "hash"],
                &["weight", &format!("{worker}=5")],
                &["drain", &worker],
                &["resume", &worker],
                &["detach"],
                &["detach", &listen],
                &["run", "--listen", "127.0.0.1:0", "--", "false"],
                &["run", "--listen", "127.0.0.1:0", "--name", "web", "--", "false"],
                &["attach", &listen, "--once"],
            ] {
                let message = host.fail(1, args);
                let sentence = format!("{path} {said}, and balancer uses only pins that");
                assert!(message.contains(&sentence), "{args:?}: {message:?}");
                assert_eq!(message.lines().count(), 1, "{args:?}: {message:?}");
            }
            // Traffic minds nothing of it, and nothing was changed.
            let answers = requests(running.address(), 4);
            assert!(answers.iter().all(|answer| answer.policy == "round-robin"), "{answers:?}");
            set_right(host.bpffs(), path);
            let members = host.status()["members"].clone();
            assert_eq!((&members[0]["selected"], &members[1]["selected"]), (&2.into(), &2.into()));
            assert!(running.stop().status.success());
            assert!(host.is_clean(), "after {at:?} {said}");
        }
    });
}

/// Undoes any of it.
fn set_right(bpffs: &Path, path: &str) {
    let aside = bpffs.join("aside");
    if aside.exists() {
        fs::remove_file(path).unwrap();
        fs::rename(aside, path).unwrap();
    }
    chown(path, Some(0), None).unwrap();
    set_mode(Path::new(path), if Path::new(path).is_dir() { 0o700 } else { 0o600 });
}

#[test]
fn where_everybody_may_have_something_a_stranger_cannot_be_first() {
    Host::with(|host| {
        // As `mount -t bpf` without a mode makes it.
        set_mode(host.bpffs(), 0o1777);
        host.run(&["--workers", "1"]).stop();
        let ours = host.bpffs().join("balancer");
        fs::create_dir(&ours).unwrap();
        belongs_to_a_stranger(&ours);
        // With a command that ends at once: where it is not refused, it is not waited for either.
        let message = host.fail(1, &["run", "--listen", "127.0.0.1:0", "--", "false"]);
        assert!(message.contains("belongs to UID 1000"), "{message:?}");
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 0, "something was put there");
    });
}
