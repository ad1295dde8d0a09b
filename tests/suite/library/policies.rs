//! Each policy gives the shares it promises, by the workers' answers and by the kernel's counters.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
};

use harness::{
    Answer, Host,
    client::{by_slot, request, request_from, requests},
};
use serde_json::Value;

fn selected(status: &Value) -> Vec<u64> {
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member["selected"].as_u64().unwrap()).collect()
}

#[test]
fn round_robin_gives_three_workers_100_of_300_connections_each() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3", "--policy", "round-robin"]);
        let answers = requests(running.address(), 300);
        assert_eq!(by_slot(&answers).into_values().collect::<Vec<_>>(), [100, 100, 100]);
        let status = host.status();
        assert_eq!(selected(&status), [100, 100, 100]);
        assert_eq!((&status["fallback"], &status["errors"]), (&0.into(), &0.into()));
        running.stop();
    });
}

#[test]
fn round_robin_stays_within_one_connection_with_eight_clients_at_once() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3", "--policy", "round-robin"]);
        let address = running.address();
        let clients: Vec<_> =
            (0..8).map(|_| thread::spawn(move || requests(address, 375))).collect();
        let answers: Vec<Answer> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        assert_eq!(answers.len(), 3000);
        let counts: Vec<usize> = by_slot(&answers).into_values().collect();
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        assert!(counts.len() == 3 && spread <= 1, "{counts:?}, {}", host.status());
        running.stop();
    });
}

#[test]
fn weighted_5_3_2_is_exact_in_any_ten_connections_in_a_row() {
    Host::with(|host| {
        let running = host.run(&["--weights", "5,3,2", "--policy", "weighted"]);
        let answers = requests(running.address(), 1000);
        for ten in answers.windows(10) {
            assert_eq!(by_slot(ten).into_values().collect::<Vec<_>>(), [5, 3, 2]);
        }
        assert_eq!(selected(&host.status()), [500, 300, 200]);
        running.stop();
    });
}

#[test]
fn random_follows_the_weights_without_following_a_pattern() {
    Host::with(|host| {
        let running = host.run(&["--weights", "3,1", "--policy", "random"]);
        let answers = requests(running.address(), 2000);
        // 1500 expected; the standard deviation is 19.4, and seven of them are no luck.
        let first = by_slot(&answers)[&0];
        assert!(first.abs_diff(1500) < 136, "{first}");
        let repeats = answers.windows(4).filter(|w| w.iter().all(|a| a.slot == w[0].slot)).count();
        // A smooth sequence of 3:1 never has four alike in a row.
        assert!(repeats > 0);
        running.stop();
    });
}

#[test]
fn hash_chooses_for_every_client_what_the_kernel_itself_chose() {
    Host::with(|host| {
        let running = host.run(&["--workers", "4", "--policy", "kernel"]);
        let ask = |policy: &str| -> Vec<u32> {
            let clients = (20_000..20_200)
                .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
                .map(|source| request_from(source, running.address()).unwrap());
            clients.inspect(|answer| assert_eq!(answer.policy, policy)).map(|a| a.slot).collect()
        };
        let by_kernel = ask("kernel");
        assert_eq!(selected(&host.status()), [0, 0, 0, 0], "a program ran");
        host.succeed(&["policy", "hash"]);
        assert_eq!(ask("hash"), by_kernel);
        assert_eq!(selected(&host.status()).iter().sum::<u64>(), 200);
        let mut workers = by_kernel;
        workers.sort_unstable();
        workers.dedup();
        assert_eq!(workers, [0, 1, 2, 3]);
        running.stop();
    });
}

#[test]
fn ipv4_ipv6_and_dual_stack_are_steered_alike() {
    Host::with(|host| {
        let v4: Vec<SocketAddr> = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        let v6: Vec<SocketAddr> = vec![(Ipv6Addr::LOCALHOST, 0).into()];
        let both = [v4.clone(), v6.clone()].concat();
        for (listen, clients) in [
            ("127.0.0.1:0", &v4),
            ("0.0.0.0:0", &v4),
            ("[::1]:0", &v6),
            ("[::]:0", &both),
            (":0", &both),
        ] {
            let running = host.run(&["--workers", "3", "--listen", listen]);
            for client in clients {
                let address = SocketAddr::new(client.ip(), running.address().port());
                let answers: Vec<Answer> = (0..30).map(|_| request(address).unwrap()).collect();
                let counts: Vec<usize> = by_slot(&answers).into_values().collect();
                assert_eq!(counts, [10, 10, 10], "{listen} from {client}");
                let shown = format!("Client [{}", SocketAddr::new(client.ip(), 0));
                let shown = shown.trim_end_matches('0');
                assert!(answers[0].body.starts_with(shown), "{}", answers[0].body);
            }
            assert!(running.stop().status.success());
        }
    });
}
