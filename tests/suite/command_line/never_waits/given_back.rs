//! A group of `run` that was given back to the kernel.

use harness::{
    Host,
    client::{by_slot, requests},
    running::{send, wait_until},
};
use rustix::process::Signal;

use super::live;

#[test]
fn a_group_of_run_that_was_detached_can_be_attached_and_detached_again() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        let address = running.address().to_string();
        for _ in 0..2 {
            host.succeed(&["detach"]);
            for replace in [&[][..], &["--replace"]] {
                host.succeed(&[&["attach", &address, "--once"], replace].concat());
                let answers = by_slot(&requests(running.address(), 20));
                assert_eq!(answers.into_values().collect::<Vec<_>>(), [10, 10]);
                host.succeed(&["detach"]);
            }
            host.succeed(&["attach", &address, "--once"]);
        }
        host.succeed(&["detach"]);
        running.wait_for("connections");
        let ended = running.stop();
        assert!(ended.stderr.contains("was given back to the kernel's hash"), "{ended:?}");
        assert!(host.is_clean());
    });
}

#[test]
fn its_agent_goes_on_and_leaves_alone_what_another_steers() {
    Host::with(|host| {
        let mut running = host.run(&["--workers", "2"]);
        let address = running.address().to_string();
        let killed = running.workers()[0];
        host.succeed(&["detach"]);
        let mut attached = host.attach(&[&address]);
        for killed in [killed, running.workers()[1]] {
            send(killed, Signal::KILL);
            running.wait_for("is back as");
            attached.wait_for("is steered too");
            wait_until("its successor alone", || {
                let live = live(host);
                live.len() == 2 && !live.contains(&killed)
            });
            // Ours is still the program that chooses.
            let before = host.status()["fallback"].clone();
            requests(running.address(), 20);
            let status = host.status();
            assert_eq!(status["fallback"], before, "{status}");
        }
        attached.stop();
        host.fail(1, &["status"]);
        assert!(running.stop().status.success());
        assert!(host.is_clean());
    });
}
