//! Each figure is what the group's maps have, while it is there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsFd as _,
};

use balancer_common::record::SlotState;
use balancer_steering::{
    flows::{Flows, TIMEOUT},
    group::Protocol,
    policy::Policy,
    weight::Weight,
};
use harness::{
    Host, TestGroup, client, group::PATIENT, needs_kernel, running::wait_until, servers::Client,
};
use rustix::process::Signal;

use super::{is, scrape, series, serve, sum};

#[test]
fn figures_are_those_of_status_for_every_slot() {
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--listen", "127.0.0.1:0", "--name", "web"]);
        client::requests(running.address(), 7);
        wait_until("all to be closed", || {
            let status = host.status();
            status["members"].as_array().unwrap().iter().all(|member| member["open"] == 0)
        });
        let text = host.succeed(&["metrics"]);
        assert!(text.ends_with("# EOF\n"), "{text}");
        let (found, status) = (series(&text), host.status());
        for member in status["members"].as_array().unwrap() {
            let slot = format!("{{group=\"web\",slot=\"{}\"", member["slot"]);
            let figures = [
                ("balancer_choices_total", "selected"),
                ("balancer_connections_total", "established"),
                ("balancer_migrations_total", "migrated"),
                ("balancer_open_connections", "open"),
                ("balancer_weight", "weight"),
            ];
            for (metric, field) in figures {
                assert_eq!(Some(found[&format!("{metric}{slot}}}")]), member[field].as_f64());
            }
            is(found[&format!("balancer_state{slot},state=\"live\"}}")], 1);
            is(found[&format!("balancer_state{slot},state=\"stalled\"}}")], 0);
            is(found[&format!("balancer_queue_length{slot}}}")], 0);
            assert!(found[&format!("balancer_queue_limit{slot}}}")] > 0.0);
            let process = format!("pid=\"{}\",command=\"balancer\"", member["pid"]);
            is(found[&format!("balancer_member_info{slot},{process}}}")], 1);
        }
        is(sum(&found, "balancer_connections_total"), 7);
        is(found["balancer_agent_up{group=\"web\"}"], 1);
        is(found["balancer_collection_errors_total"], 0);
        running.stop();
    });
}

#[test]
fn connections_that_wait_are_the_queue() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1]);
        let _clients = group.connect(3);
        let found = series(&host.succeed(&["metrics"]));
        is(found["balancer_queue_length{group=\"test\",slot=\"0\"}"], 3);
        assert!(!found.contains_key("balancer_agent_up{group=\"test\"}"), "it is to have no agent");
    });
}

#[test]
fn datagrams_are_choices_and_what_waits_of_them_is_bytes() {
    Host::with(|host| {
        let group = TestGroup::new(host, Protocol::Udp, Policy::RoundRobin, &[1]);
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..2 {
            client.send_to(b"some", group.address).unwrap();
        }
        let found = series(&host.succeed(&["metrics"]));
        is(sum(&found, "balancer_choices_total"), 2);
        assert!(sum(&found, "balancer_receive_queue_bytes") >= 8.0);
        for metric in
            ["balancer_connections_total", "balancer_queue_length", "balancer_queue_limit"]
        {
            assert!(!found.keys().any(|name| name.starts_with(metric)), "{metric}");
        }
    });
}

#[test]
fn flows_and_what_was_evicted_of_them_are_figures_of_their_own() {
    Host::with(|host| {
        let address = ([127, 0, 0, 1], 0).into();
        let flows = Some(Flows::new(TIMEOUT, 1));
        let policy = Policy::RoundRobin;
        let group =
            TestGroup::flowing(host, Protocol::Udp, address, policy, PATIENT, flows, &[1, 1]);
        let room = 64 * 15;
        let address = group.address.to_string();
        (0..2 * room).for_each(|_| Client::of(&address).tell());
        let found = series(&host.succeed(&["metrics"]));
        is(sum(&found, "balancer_flow_limit"), room);
        is(sum(&found, "balancer_flows_total"), 2 * room);
        let open = sum(&found, "balancer_open_flows");
        assert!(open <= room.into(), "{open}");
        let evicted = sum(&found, "balancer_evicted_unassured_flows_total");
        assert!((evicted - (f64::from(2 * room) - open)).abs() < 0.5, "{evicted} of {open}");
        is(sum(&found, "balancer_evicted_flows_total"), 0);
        assert!(!found.keys().any(|name| name.starts_with("balancer_open_connections")));
    });
}

#[test]
fn requests_are_in_the_histograms_while_they_are_observed_and_not_after() {
    Host::with(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1]);
        let (running, address) = serve(host, &["--observe"]);
        let mut client = group.connect(1).remove(0);
        let mut worker: TcpStream = group.accept_all(0).remove(0).into();
        worker.set_nonblocking(false).unwrap();
        let found = scrape(&address);
        is(found["balancer_busy_connections{group=\"test\",slot=\"0\"}"], 1);
        for _ in 0..3 {
            client.write_all(b"some").unwrap();
            worker.read_exact(&mut [0; 4]).unwrap();
            is(sum(&scrape(&address), "balancer_requests_in_flight"), 1);
            worker.write_all(b"some").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
        }
        let found = scrape(&address);
        is(sum(&found, "balancer_request_duration_seconds_count"), 3);
        is(sum(&found, "balancer_read_delay_seconds_count"), 3);
        is(sum(&found, "balancer_first_answer_seconds_count"), 1);
        let last = "{group=\"test\",slot=\"0\",le=\"+Inf\"}";
        is(found[&format!("balancer_request_duration_seconds_bucket{last}")], 3);
        assert!(sum(&found, "balancer_request_duration_seconds_sum") > 0.0);
        is(found["balancer_idle_connections{group=\"test\",slot=\"0\"}"], 1);
        is(sum(&found, "balancer_observed"), 1);
        running.signal(Signal::TERM);
        assert!(running.ended().status.success());
        assert!(group.steering.requests().unwrap().is_none(), "the tracker is still on");
        let found = series(&host.succeed(&["metrics"]));
        assert!(!found.keys().any(|name| name.starts_with("balancer_request_duration_seconds_")));
    });
}

#[test]
fn a_slot_that_is_given_to_another_worker_begins_at_none() {
    Host::with(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let mut group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1, 1]);
        let (running, address) = serve(host, &["--observe"]);
        let mut clients = group.connect(2);
        let workers = [0, 1].map(|slot| TcpStream::from(group.accept_all(slot).remove(0)));
        clients.iter_mut().for_each(|client| client.write_all(b"some").unwrap());
        for mut worker in workers {
            worker.set_nonblocking(false).unwrap();
            worker.read_exact(&mut [0; 4]).unwrap();
            worker.write_all(b"some").unwrap();
        }
        let counters = [
            "balancer_choices_total",
            "balancer_connections_total",
            "balancer_request_duration_seconds_count",
            "balancer_read_delay_seconds_count",
            "balancer_first_answer_seconds_count",
        ];
        let of = |slot: u32| {
            let found = scrape(&address);
            counters.map(|name| found[&format!("{name}{{group=\"test\",slot=\"{slot}\"}}")])
        };
        of(0).into_iter().for_each(|count| is(count, 1));
        group.sockets[0] = None;
        group.steering.vacate(0).unwrap();
        // One socket comes and goes until no slot is left that was never used.
        let socket = harness::sockets::tcp(&group.address.to_string());
        loop {
            match group.steering.seat(socket.as_fd(), Weight::ONE).unwrap() {
                0 => break,
                slot => group.steering.vacate(slot).unwrap(),
            }
        }
        group.steering.set_state(0, SlotState::Live).unwrap();
        group.steering.publish().unwrap();
        of(0).into_iter().for_each(|count| is(count, 0));
        of(1).into_iter().for_each(|count| is(count, 1));
        assert!(running.stop().status.success());
    });
}

#[test]
fn a_group_that_comes_later_is_observed_too() {
    Host::with(|host| {
        if !needs_kernel(6, 3) {
            return;
        }
        let (running, address) = serve(host, &["--observe"]);
        is(scrape(&address)["balancer_collection_errors_total"], 0);
        let _group = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1]);
        is(sum(&scrape(&address), "balancer_observed"), 1);
        assert!(running.stop().status.success());
    });
}

#[test]
fn a_group_that_cannot_be_read_is_counted_and_the_others_are_there() {
    Host::with(|host| {
        let good = host.run(&["--workers", "1", "--listen", "127.0.0.1:0", "--name", "good"]);
        let _bad = TestGroup::new(host, Protocol::Tcp, Policy::RoundRobin, &[1]);
        fs::remove_file(host.pins("test").join("MEMBERS")).unwrap();
        let (metrics, address) = serve(host, &[]);
        for errors in [1, 2] {
            let found = scrape(&address);
            is(found["balancer_collection_errors_total"], errors);
            is(found["balancer_agent_up{group=\"good\"}"], 1);
            assert!(!found.keys().any(|name| name.contains("group=\"test\"")), "{found:?}");
        }
        let ended = metrics.stop();
        assert_eq!(ended.stderr.matches("some metrics are missing").count(), 1, "{}", ended.stderr);
        good.stop();
    });
}

#[test]
fn a_killed_agent_is_not_up() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1", "--listen", "127.0.0.1:0", "--name", "web"]);
        running.kill();
        is(series(&host.succeed(&["metrics"]))["balancer_agent_up{group=\"web\"}"], 0);
    });
}
