//! UDP: the datagrams of one client go to one server, whatever else comes or goes.

use std::{collections::HashSet, net::UdpSocket, thread};

use harness::{
    Host,
    running::wait_until,
    servers::{Client, Server, ask_udp},
};
use serde_json::Value;

const ADDRESS: &str = "127.0.0.1:8000";

fn clients(count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::of(ADDRESS)).collect()
}

/// Who answers each.
fn ask(clients: &[Client]) -> Vec<u32> {
    clients.iter().map(Client::ask).collect()
}

/// How many clients have another server than before.
fn moved(before: &[u32], after: &[u32]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

/// A figure of each member, by slot.
fn each(host: &Host, what: &str) -> Vec<u64> {
    let status = host.status();
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member[what].as_u64().unwrap()).collect()
}

fn sum(host: &Host, what: &str) -> u64 {
    each(host, what).iter().sum()
}

#[test]
fn flows_stay_with_a_drained_server_and_none_begins_there() {
    Host::with_python(|host| {
        let _servers = Server::several(3, "udp", ADDRESS);
        host.succeed(&["attach", ADDRESS, "--udp", "--once"]);
        let clients = clients(30);
        let before = ask(&clients);
        let drained = host.workers(None)[0];
        host.succeed(&["drain", &drained.to_string()]);
        assert_eq!(moved(&before, &ask(&clients)), 0);
        assert_eq!(each(host, "open"), [10, 10, 10]);
        assert!(!ask_udp(ADDRESS, 20).contains_key(&drained));
        assert_eq!(each(host, "open"), [10, 20, 20]);
    });
}

#[test]
fn a_server_that_joins_gets_new_flows_and_no_others() {
    Host::with_python(|host| {
        let _servers = Server::several(3, "udp", ADDRESS);
        let mut running = host.attach(&[ADDRESS, "--udp", "--policy", "least-connections"]);
        let clients = clients(30);
        let before = ask(&clients);
        let newcomer = Server::start("udp", ADDRESS);
        running.wait_for("is steered too, in slot 3");
        assert_eq!(moved(&before, &ask(&clients)), 0);
        // It has the fewest until it has as many as the others.
        assert_eq!(ask_udp(ADDRESS, 10), [(newcomer.pid(), 10)].into());
        assert_eq!(each(host, "open"), [10, 10, 10, 10]);
        running.stop();
    });
}

#[test]
fn the_flows_of_a_server_that_dies_move_to_others_and_stay_there() {
    Host::with_python(|host| {
        let mut servers = Server::several(3, "udp", ADDRESS);
        let mut running = host.attach(&[ADDRESS, "--udp"]);
        let clients = clients(30);
        let before = ask(&clients);
        let dead = servers.remove(1);
        let pid = dead.pid();
        dead.kill();
        running.wait_for("is gone from slot");
        let after = ask(&clients);
        assert_eq!(moved(&before, &after), 10);
        assert!(!after.contains(&pid));
        assert_eq!(ask(&clients), after);
        assert_eq!(sum(host, "migrated"), 10);
        assert_eq!(each(host, "open"), [15, 15]);
        running.stop();
    });
}

#[test]
fn flows_of_a_dead_server_move_once_though_nobody_takes_it_out_of_the_table() {
    Host::with_python(|host| {
        let mut servers = Server::several(3, "udp", ADDRESS);
        host.succeed(&["attach", ADDRESS, "--udp", "--once", "--policy", "random"]);
        let clients = clients(30);
        let before = ask(&clients);
        let dead = servers.remove(0);
        let pid = dead.pid();
        dead.kill();
        let after = ask(&clients);
        assert!(before.contains(&pid) && !after.contains(&pid));
        for _ in 0..5 {
            assert_eq!(ask(&clients), after);
        }
        let of_dead = before.iter().filter(|&&server| server == pid).count();
        assert_eq!((moved(&before, &after), sum(host, "migrated")), (of_dead, of_dead as u64));
        assert_eq!(sum(host, "open"), 30);
    });
}

#[test]
fn flows_that_have_ended_are_no_load_in_a_table_of_the_usual_size_either() {
    Host::with_python(|host| {
        let _servers = Server::several(2, "udp", ADDRESS);
        let options = ["--once", "--policy", "least-connections", "--flow-timeout", "1s"];
        host.succeed(&[&["attach", ADDRESS, "--udp"], &options[..]].concat());
        let [one, other] = host.workers(None)[..] else { panic!("two servers") };
        host.succeed(&["drain", &one.to_string()]);
        assert_eq!(ask_udp(ADDRESS, 40), [(other, 40)].into());
        host.succeed(&["resume", &one.to_string()]);
        wait_until("all flows to have ended", || sum(host, "open") == 0);
        // The first sweep what has ended, 32 of the 8,739 sets each.
        ask_udp(ADDRESS, 300);
        let answers = ask_udp(ADDRESS, 100);
        assert!(answers[&one].abs_diff(50) <= 20, "{answers:?}");
    });
}

#[test]
fn flows_go_on_where_the_kernels_hash_has_had_them() {
    Host::with_python(|host| {
        let _servers = Server::several(3, "udp", ADDRESS);
        host.succeed(&["attach", ADDRESS, "--udp", "--once"]);
        let clients = clients(30);
        ask(&clients);
        host.succeed(&["policy", "kernel"]);
        let under_kernel = ask(&clients);
        host.succeed(&["policy", "round-robin"]);
        assert_eq!(ask(&clients), under_kernel);
        assert_eq!(sum(host, "open"), 30);
    });
}

#[test]
fn a_drain_waits_until_nobody_has_sent_for_the_timeout() {
    Host::with_python(|host| {
        let servers = Server::several(2, "udp", ADDRESS);
        let running = host.attach(&[ADDRESS, "--udp", "--flow-timeout", "5s"]);
        ask(&clients(10));
        let whom = servers[0].pid().to_string();
        let said = host.succeed(&["drain", &whom, "--wait"]);
        assert!(said.contains("has flows left: 5 open"), "{said}");
        assert!(said.contains(&format!("PID {whom} has no flow left")), "{said}");
        assert_eq!(sum(host, "open"), 0);
        running.stop();
    });
}

#[test]
fn a_takeover_and_a_switch_of_the_policy_move_no_flow() {
    Host::with_python(|host| {
        let _servers = Server::several(3, "udp", ADDRESS);
        let running = host.attach(&[ADDRESS, "--udp"]);
        let clients = clients(30);
        let before = ask(&clients);
        running.kill();
        let running = host.attach(&[ADDRESS, "--udp", "--takeover"]);
        assert_eq!(moved(&before, &ask(&clients)), 0);
        for policy in ["random", "least-connections", "hash"] {
            host.succeed(&["policy", policy]);
            assert_eq!(moved(&before, &ask(&clients)), 0);
        }
        running.stop();
        assert!(host.is_clean());
    });
}

#[test]
fn a_flood_from_forged_addresses_evicts_nobody_who_is_served() {
    // The last: IPv4 at a socket that takes both, where the server answers to another form of the address.
    for (address, client) in
        [(ADDRESS, ADDRESS), ("[::1]:8000", "[::1]:8000"), ("[::]:8000", ADDRESS)]
    {
        Host::with_python(move |host| {
            let _servers = Server::several(3, "udp", address);
            host.succeed(&["attach", address, "--udp", "--once", "--max-flows", "900"]);
            let clients: Vec<Client> = (0..60).map(|_| Client::of(client)).collect();
            let before = ask(&clients);
            // After an answer, so that they are known to hear it.
            assert_eq!(ask(&clients), before);
            for port in 30_000..40_000 {
                let own = if client.starts_with('[') { "[::1]" } else { "127.0.0.9" };
                let forged = UdpSocket::bind(format!("{own}:{port}")).unwrap();
                forged.send_to(b"?", client).unwrap();
                // One of each server, so that its queue never overflows.
                if port % 50 == 0 {
                    assert_eq!(ask(&clients[..3]), before[..3]);
                }
            }
            assert_eq!(moved(&before, &ask(&clients)), 0);
            let flows = &host.status()["flows"];
            assert_eq!(flows["evicted"], 0, "{flows}");
            assert_eq!(flows["room"], 960);
            assert!(flows["evicted_unassured"].as_u64().unwrap() > 9_000, "{flows}");
            assert!(sum(host, "open") <= 960);
        });
    }
}

#[test]
fn the_first_datagrams_of_a_client_sent_at_once_begin_one_flow() {
    Host::with_python(|host| {
        let _servers = Server::several(3, "udp", ADDRESS);
        host.succeed(&["attach", ADDRESS, "--udp", "--once"]);
        for _ in 0..40 {
            let client = Client::of(ADDRESS);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..5).for_each(|_| client.tell()));
                }
            });
            let servers: HashSet<u32> = (0..20).map(|_| client.answer()).collect();
            assert_eq!(servers.len(), 1);
        }
        assert_eq!(sum(host, "selected"), 40 * 20);
        assert_eq!((sum(host, "open"), sum(host, "established")), (40, 40));
    });
}

#[test]
fn a_status_tells_flows_from_datagrams_and_what_the_table_takes() {
    Host::with_python(|host| {
        let _servers = Server::several(2, "udp", ADDRESS);
        let running = host.attach(&[ADDRESS, "--udp", "--max-flows", "10000"]);
        let clients = clients(4);
        (0..3).for_each(|_| drop(ask(&clients)));
        let text = host.succeed(&["status"]);
        for part in ["OPEN  DATAGRAMS  FLOWS", "4 flows; 0 left", "room for 10005 flows (0.2 MiB)"]
        {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert_eq!((each(host, "selected"), each(host, "established")), (vec![6; 2], vec![2; 2]));
        running.stop();
        assert!(host.is_clean());
    });
}

#[test]
fn flows_are_of_udp_alone() {
    Host::with_python(|host| {
        let _server = Server::start("tcp", ADDRESS);
        host.refuse(2, &["attach", ADDRESS, "--flow", "none"], &["flows are of UDP"]);
        host.succeed(&["attach", ADDRESS, "--once"]);
        assert_eq!(host.status()["flows"], Value::Null);
    });
}
