//! What happens while a successor is starting in a reload: who dies, what is switched, what is given back.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
};

use harness::{
    Host, Running, fifo,
    line::{SERVER, ask},
    running::{send, wait_until, wait_until_gone, watch},
};
use rustix::process::Signal;
use tempfile::TempDir;

/// Two workers, of which the first is being replaced: its successor waits to be let through the gate.
struct Reloading {
    running: Running,
    before: Vec<u32>,
    reload: Child,
    gate: PathBuf,
    _directory: TempDir,
}

impl Reloading {
    fn begin(host: &Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        fs::write(&gate, "").unwrap();
        let gated = format!("gate={}", gate.display());
        let run = ["--workers", "2", "--ready", "notify", "--"];
        let running =
            host.run(&[&run[..], &["python3", SERVER, "handed", &gated, "notify"]].concat());
        let before = host.workers(None);
        fs::remove_file(&gate).unwrap();
        fifo(&gate);
        let mut reload = host.balancer(&["reload"]);
        let reload = reload.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("a successor", || host.workers(Some("starting")).len() == 1);
        Self { running, before, reload, gate, _directory: directory }
    }

    /// Lets it through, and all that follow.
    fn open(&self) {
        // Who opens it waits until the successor is there; that one then waits for its end.
        let fifo = fs::OpenOptions::new().write(true).open(&self.gate).unwrap();
        let open = self.gate.with_extension("open");
        fs::write(&open, "").unwrap();
        fs::rename(open, &self.gate).unwrap();
        drop(fifo);
    }
}

#[test]
fn the_weight_of_a_worker_that_dies_is_its_successors() {
    Host::with_python(|host| {
        let mut reloading = Reloading::begin(host);
        let dead = reloading.before[0];
        host.succeed(&["weight", &format!("{dead}=5")]);
        let process = watch(dead);
        send(dead, Signal::KILL);
        wait_until_gone(&process, "the predecessor");
        reloading.open();
        assert!(reloading.reload.wait().unwrap().success());
        let status = host.status();
        let mut weights: Vec<_> =
            status["members"].as_array().unwrap().iter().map(|member| &member["weight"]).collect();
        weights.sort_by_key(|weight| weight.as_u64());
        assert_eq!(weights, [1, 5]);
        reloading.running.stop();
    });
}

#[test]
fn the_kernels_hash_is_refused() {
    Host::with_python(|host| {
        let mut reloading = Reloading::begin(host);
        let refusal = host.fail(1, &["policy", "kernel"]);
        assert!(refusal.contains("are being replaced, which under the policy kernel"), "{refusal}");
        reloading.open();
        assert!(reloading.reload.wait().unwrap().success());
        host.succeed(&["policy", "kernel"]);
        reloading.running.stop();
    });
}

#[test]
fn where_the_group_is_given_back_nobody_more_is_replaced() {
    Host::with_python(|host| {
        let mut reloading = Reloading::begin(host);
        host.succeed(&["detach"]);
        reloading.open();
        reloading.reload.wait().unwrap();
        let mut asked = std::collections::BTreeSet::new();
        wait_until("both to be asked", || {
            asked.extend(ask(reloading.running.address()).ok());
            reloading.before.iter().all(|pid| asked.contains(pid))
        });
        let ended = reloading.running.stop();
        assert!(ended.stderr.contains("was given back to the kernel's hash"), "{ended:?}");
    });
}
