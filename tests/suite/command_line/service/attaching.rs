//! All groups of a service are steered, or none.

use std::net::TcpStream;

use harness::{
    Host,
    running::{send, wait_until, wait_until_gone, watch},
    sockets::tcp,
    there,
};
use rustix::process::Signal;

use super::{Nginx, names, set, sockets, status_of};

/// How many choices were made in a group.
fn choices(host: &Host, group: &str) -> u64 {
    let status = status_of(host, group);
    let members = status["members"].as_array().unwrap();
    members.iter().map(|member| member["selected"].as_u64().unwrap()).sum()
}

#[test]
fn nginx_on_two_families_and_two_ports_is_one_service_until_ctrl_c() {
    if !there("nginx") {
        return;
    }
    Host::with(|host| {
        let _nginx = Nginx::start(host);
        let mut running = host.start(&["attach", ":8000", ":8443", "--service", "web"]);
        let line = running.wait_for("steering ");
        assert_eq!(
            line,
            "steering service web, policy round-robin, 3 workers, groups tcp-8000 tcp-8000-ipv6 tcp-8443"
        );
        assert_eq!(names(host), set(&Nginx::ADDRESSES.map(|(_, name)| name)));
        for (address, name) in Nginx::ADDRESSES {
            let _clients = [(); 6].map(|()| TcpStream::connect(address).unwrap());
            assert_eq!(choices(host, name), 6, "{name}");
            assert_eq!(status_of(host, name)["group"]["service"], "web");
        }
        assert!(running.stop().status.success());
        assert!(host.is_clean());
    });
}

#[test]
fn its_agent_shows_all_groups_as_one() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        let mut running = host.start(&["attach", ":8000", ":8443", "--service", "web"]);
        running.wait_for("steering ");
        let connect = |port| [(); 3].map(|()| TcpStream::connect(("127.0.0.1", port)).unwrap());
        let _clients = [connect(8000), connect(8443)];
        let line = running.wait_for("round-robin connections=6 ");
        assert!(line.ends_with(&format!(" {}=6", std::process::id())), "{line}");
        running.stop();
    });
}

#[test]
fn a_server_that_joins_is_steered_in_each_group_and_named_with_its_group() {
    Host::with(|host| {
        let _first = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        let mut running = host.start(&["attach", ":8000", ":8443", "--service", "web"]);
        running.wait_for("steering ");
        let _later = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        for name in ["tcp-8000", "tcp-8443"] {
            running.line(&format!("{name}: PID {}", std::process::id()));
        }
        assert!(running.stop().status.success());
        assert!(host.is_clean());
    });
}

#[test]
fn if_one_address_is_not_served_none_is_steered() {
    Host::with(|host| {
        let _sockets = sockets();
        let args = ["attach", ":8000", ":8001", "--service", "web", "--once"];
        host.refuse(1, &args, &["serves :8001"]);
    });
}

#[test]
fn if_one_address_cannot_be_steered_those_before_it_are_given_back() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        host.succeed(&["attach", ":8443", "--once", "--name", "other"]);
        let args = ["attach", ":8000", ":8443", "--service", "web"];
        for more in [&[][..], &["--once"]] {
            let message = host.fail(1, &[&args[..], more].concat());
            let part = "tcp/127.0.0.1:8443 cannot be steered, so no address of the service web is";
            assert!(message.contains(part) && message.contains("group other"), "{message}");
            assert_eq!(names(host), set(&["other"]));
        }
        host.succeed(&["detach"]);
        assert!(host.is_clean());
    });
}

#[test]
fn what_was_replaced_before_another_address_failed_is_said_to_be_gone() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        host.succeed(&["attach", ":8443", "--once"]);
        // Whose program it was is forgotten; it stays attached, and the array with it.
        std::fs::remove_dir_all(host.pins("tcp-8443")).unwrap();
        host.succeed(&["attach", ":8000", "--once", "--name", "other"]);
        let args = ["attach", ":8443", ":8000", "--service", "web", "--replace"];
        let message = host.fail(1, &args);
        for part in
            ["steered tcp/127.0.0.1:8443 was detached", "tcp/127.0.0.1:8000 cannot be steered"]
        {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert_eq!(names(host), set(&["other"]));
        host.succeed(&["detach"]);
    });
}

#[test]
fn a_policy_that_one_of_them_cannot_have_is_refused_before_any_is_steered() {
    Host::with(|host| {
        let _sockets = sockets();
        let args = ["attach", ":8000", "udp/:8000", "--service", "web"];
        let args = [&args[..], &["--policy", "least-requests"]].concat();
        host.refuse(1, &args, &["udp/127.0.0.1:8000 cannot be steered", "least-requests"]);
    });
}

#[test]
fn once_stays_in_all_groups_and_a_name_is_one_services() {
    Host::with(|host| {
        let _sockets = sockets();
        let _other = tcp("127.0.0.1:9000");
        let said = host.succeed(&["attach", ":8000", "udp/:8000", "--service", "web", "--once"]);
        let all = ["tcp-8000", "tcp-8000-127-0-0-1", "tcp-8000-ipv6", "udp-8000"];
        assert_eq!(names(host), set(&all), "{said}");
        let message = host.fail(1, &["attach", ":9000", "--service", "web", "--once"]);
        assert!(message.contains("the service web has the group tcp-8000"), "{message}");
        for name in all {
            host.succeed(&["detach", "--group", name]);
        }
        assert!(host.is_clean());
    });
}

#[test]
fn a_service_of_more_groups_than_are_added_up_is_refused() {
    Host::with(|host| {
        let addresses: Vec<String> = (8000..8033).map(|port| format!("127.0.0.1:{port}")).collect();
        let _sockets: Vec<_> = addresses.iter().map(|address| tcp(address)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let args = [&["attach", "--service", "web"], &addresses[..]].concat();
        host.refuse(2, &args, &["32 groups at most"]);
    });
}

#[test]
fn several_addresses_need_a_services_name() {
    Host::with(|host| {
        host.refuse(2, &["attach", ":8000", ":8443"], &["--service web"]);
    });
}

#[test]
fn a_takeover_goes_on_with_all_groups_that_a_killed_agent_left_and_steers_one_that_it_did_not_come_to()
 {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443"), tcp("127.0.0.1:9000")];
        let args = ["attach", ":8000", ":8443", ":9000", "--service", "web"];
        let mut running = host.start(&[&args[..], &["--policy", "hash"]].concat());
        running.wait_for("steering ");
        let agent = watch(running.pid());
        send(running.pid(), Signal::KILL);
        wait_until_gone(&agent, "the agent");
        host.succeed(&["detach", "--group", "tcp-8443"]);
        // Not a part of it.
        let message = host.fail(1, &["attach", ":8000", "--takeover"]);
        assert!(message.contains("of the service web"), "{message}");
        let message = host.fail(1, &args[..]);
        assert!(message.contains("--takeover"), "{message}");
        let mut running = host.start(&[&args[..], &["--takeover"]].concat());
        running.wait_for("steering service web, policy hash, 1 workers");
        for name in ["tcp-8000", "tcp-8443", "tcp-9000"] {
            assert_eq!(status_of(host, name)["policy"], "hash");
        }
        assert!(running.stop().status.success());
        assert!(host.is_clean());
    });
}

#[test]
fn an_agent_whose_groups_are_given_back_one_after_the_other_ends_with_the_last() {
    Host::with(|host| {
        let _sockets = [tcp("127.0.0.1:8000"), tcp("127.0.0.1:8443")];
        let mut running = host.start(&["attach", ":8000", ":8443", "--service", "web"]);
        running.wait_for("steering ");
        host.succeed(&["detach", "--group", "tcp-8000"]);
        running.wait_for("tcp/127.0.0.1:8000 was given back");
        let _client = TcpStream::connect("127.0.0.1:8443").unwrap();
        wait_until("the other to be steered on", || choices(host, "tcp-8443") == 1);
        host.succeed(&["detach", "--group", "tcp-8443"]);
        assert!(running.ended().status.success());
        assert!(host.is_clean());
    });
}
