//! Ways to get metrics: HTTP, and a file.

use std::{fs, thread};

use harness::{Host, client, running::wait_until};
use rustix::process::Signal;

use super::{http, is, scrape, series, serve, sum};

#[test]
fn scrapes_at_once_are_all_right_and_change_no_figure() {
    Host::with(|host| {
        let running = host.run(&["--workers", "3", "--listen", "127.0.0.1:0"]);
        client::requests(running.address(), 10);
        wait_until("all to be closed", || {
            let status = host.status();
            status["members"].as_array().unwrap().iter().all(|member| member["open"] == 0)
        });
        let (metrics, address) = serve(host, &[]);
        let figures = || {
            let mut found = scrape(&address);
            found.remove("balancer_scrape_duration_seconds");
            found
        };
        let first = figures();
        is(sum(&first, "balancer_choices_total"), 10);
        thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(figures)).collect();
            for one in all {
                assert_eq!(one.join().unwrap(), first);
            }
        });
        metrics.stop();
        running.stop();
    });
}

#[test]
fn http_is_spoken_as_scrapers_expect() {
    Host::with(|host| {
        let (metrics, address) = serve(host, &[]);
        let openmetrics = "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n";
        let (head, body) = http(&address, "GET /metrics", openmetrics);
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"), "{body}");
        let (head, body) = http(&address, "GET /metrics?name=x", "");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("# TYPE balancer_choices_total counter\n"), "{body}");
        let (head, body) = http(&address, "HEAD /metrics", "");
        assert!(head.starts_with("http/1.1 200 ") && head.contains("content-length: "), "{head}");
        assert_eq!(body, "");
        assert!(http(&address, "GET /", "").0.starts_with("http/1.1 404 "));
        let (head, _) = http(&address, "POST /metrics", "Content-Length: 0\r\n");
        assert!(head.starts_with("http/1.1 405 ") && head.contains("allow: get, head"), "{head}");
        metrics.signal(Signal::TERM);
        assert!(metrics.ended().status.success());
    });
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    Host::with(|host| {
        let (metrics, address) = serve(host, &[]);
        let parts = ["cannot serve metrics at 127.0.0.1:", "in use", "ss -ltnp", "--listen"];
        host.refuse(1, &["metrics", "--listen", &address], &parts);
        metrics.stop();
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    Host::with(|host| {
        host.refuse(2, &["metrics", "--observe"], &["--observe needs --listen"]);
        host.refuse(1, &["metrics", "--group", "web"], &["there is no group web"]);
        host.refuse(2, &["metrics", "--once"], &["--textfile"]);
        let path = "/nowhere/balancer.prom";
        host.refuse(1, &["metrics", "--textfile", path, "--once"], &["cannot write", path]);
    });
}

#[test]
fn a_textfile_is_replaced_again_and_again_and_removed_at_the_end() {
    Host::with(|host| {
        let running = host.run(&["--workers", "1", "--listen", "127.0.0.1:0"]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("balancer.prom");
        let args = ["metrics", "--textfile", path.to_str().unwrap(), "--interval", "20ms"];
        let metrics = host.start(&args);
        let read = || fs::read_to_string(&path).map(|text| series(&text)).unwrap_or_default();
        wait_until("the file", || path.exists());
        is(sum(&read(), "balancer_choices_total"), 0);
        client::requests(running.address(), 2);
        wait_until("it to be renewed", || sum(&read(), "balancer_choices_total") > 1.5);
        metrics.signal(Signal::TERM);
        assert!(metrics.ended().status.success());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "something was left");
        host.succeed(&["metrics", "--textfile", path.to_str().unwrap(), "--once"]);
        is(sum(&read(), "balancer_choices_total"), 2);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        running.stop();
    });
}
