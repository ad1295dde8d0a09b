//! `run --udp`: workers that are handed a UDP socket, or bind one.

use std::process::Stdio;

use harness::{
    Host,
    running::{all_new, wait_until},
    servers::{Client, Server, ask_udp},
};

const ADDRESS: &str = "127.0.0.1:8000";

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python/udp_server.py");

/// `run --udp` at that address, with these options, of the example's server.
fn run<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--udp", "--listen", ADDRESS, "--workers", "3"];
    [&fixed[..], options, &["--", SERVER, ADDRESS]].concat()
}

fn clients() -> Vec<Client> {
    (0..30).map(|_| Client::of(ADDRESS)).collect()
}

fn ask(clients: &[Client]) -> Vec<u32> {
    clients.iter().map(Client::ask).collect()
}

#[test]
fn each_worker_has_a_socket_of_its_own_whether_handed_over_or_bound() {
    for options in [&[][..], &["--self-bind"]] {
        Host::with_python(move |host| {
            let running = host.run(&run(options));
            let each = host.workers(Some("live")).into_iter().map(|pid| (pid, 10)).collect();
            assert_eq!(ask_udp(ADDRESS, 30), each);
            assert_eq!(host.status()["group"]["protocol"], "udp");
            running.stop();
            assert!(host.is_clean());
        });
    }
}

#[test]
fn a_reload_waits_for_flows_to_end() {
    Host::with_python(|host| {
        let running = host.run(&run(&["--flow-timeout", "1s"]));
        let clients = clients();
        let before = ask(&clients);
        let ended = host.succeed(&["reload"]);
        assert!(ended.contains("3 of 3 replaced"), "{ended}");
        all_new(&before, &ask(&clients));
        assert!(!running.stop().stderr.contains("connections left"));
    });
}

#[test]
fn while_a_worker_is_replaced_its_clients_stay_with_it() {
    Host::with_python(|host| {
        let running = host.run(&run(&[]));
        let clients = clients();
        let before = ask(&clients);
        let mut reload = host.balancer(&["reload"]);
        let mut reload = reload.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("a worker to drain", || host.workers(Some("draining")).len() == 1);
        assert_eq!(ask(&clients), before);
        running.stop();
        reload.wait().unwrap();
    });
}

#[test]
fn a_takeover_goes_on_with_workers_and_flows() {
    Host::with_python(|host| {
        let running = host.run(&run(&[]));
        let (clients, workers) = (clients(), host.workers(Some("live")));
        let before = ask(&clients);
        running.kill();
        assert_eq!(ask(&clients), before);
        let running = host.run(&[&["--takeover"], &run(&[])[..]].concat());
        assert_eq!((host.workers(Some("live")), ask(&clients)), (workers, before));
        running.stop();
        assert!(host.is_clean());
    });
}

#[test]
fn a_worker_that_dies_is_started_again_and_its_flows_move() {
    Host::with_python(|host| {
        let mut running = host.run(&run(&[]));
        let clients = clients();
        let before = ask(&clients);
        let dead = host.workers(None)[0];
        harness::running::send(dead, rustix::process::Signal::KILL);
        running.wait_for("in slot 3");
        let after = ask(&clients);
        assert!(!after.contains(&dead));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!(moved, 10);
        running.stop();
    });
}

#[test]
fn what_makes_no_sense_with_udp_is_refused() {
    Host::with_python(|host| {
        host.refuse(2, &["run", "--udp"], &["speaks HTTP", "command"]);
        host.refuse(2, &["run", "--max-flows", "7"], &["--udp"]);
        let none = ["--flow", "none", "--flow-timeout", "5s"];
        host.refuse(2, &[&["run"], &run(&none)[..]].concat(), &["there are no flows"]);
        let _server = Server::start("udp", ADDRESS);
        let command = [&["run"], &run(&[])[..]].concat();
        host.refuse(1, &command, &["is served already", "balancer attach 127.0.0.1:8000 --udp"]);
    });
}
