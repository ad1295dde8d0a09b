//! Tools that read metrics, alerts and the dashboard; and the page that lists all metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use harness::{
    Host, client, needs_kernel,
    running::{send, wait_until},
    there,
};
use rustix::process::Signal;
use serde_json::Value;

use super::{http, root, serve};

#[test]
fn promtool_finds_nothing_to_object_to() {
    if !there("promtool") {
        return;
    }
    Host::with(|host| {
        let running = host.run(&["--workers", "2", "--listen", "127.0.0.1:0"]);
        client::requests(running.address(), 2);
        let (metrics, address) = serve(host, if needs_kernel(6, 3) { &["--observe"] } else { &[] });
        let (_, text) = http(&address, "GET /metrics", "");
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
        metrics.stop();
        running.stop();
    });
    let rules = root().join("contrib/prometheus/balancer.rules.yml");
    let checked = Command::new("promtool").args(["check", "rules"]).arg(rules).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// What Prometheus answers to a question of its API; null while it is starting.
fn ask(address: &str, question: &str) -> Value {
    let (_, body) = http(address, &format!("GET /api/v1/{question}"), "");
    // It may be chunked; the object is in one piece.
    match (body.find('{'), body.rfind('}')) {
        (Some(start), Some(end)) => serde_json::from_str(&body[start..=end]).unwrap(),
        _ => Value::Null,
    }
}

fn value(answer: &Value) -> Option<f64> {
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

fn prometheus(directory: &Path, target: &str, address: &str) -> Child {
    let rules = root().join("contrib/prometheus/balancer.rules.yml");
    let config = serde_json::json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules.canonicalize().unwrap()],
        "scrape_configs": [
            {"job_name": "balancer", "static_configs": [{"targets": [target]}]},
        ],
    });
    // JSON is YAML.
    let path = directory.join("prometheus.yml");
    fs::write(&path, config.to_string()).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", path.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.unwrap()
}

#[test]
fn a_real_prometheus_scrapes_the_right_counts_and_evaluates_the_alerts() {
    if !there("prometheus") {
        return;
    }
    Host::with(|host| {
        // The network namespace is the test's own, and so is this port.
        const ADDRESS: &str = "127.0.0.1:9090";
        let running = host.run(&["--workers", "2", "--listen", "127.0.0.1:8080", "--name", "web"]);
        client::requests(running.address(), 10);
        let (metrics, target) = serve(host, &[]);
        let directory = tempfile::tempdir().unwrap();
        let mut child = prometheus(directory.path(), &target, ADDRESS);
        wait_until("Prometheus", || TcpStream::connect(ADDRESS).is_ok());
        let query = |query: &str| value(&ask(ADDRESS, &format!("query?query={query}")));
        wait_until("a scrape", || query("sum(balancer_connections_total)").is_some());
        assert_eq!(query("sum(balancer_connections_total)"), Some(10.0));
        assert_eq!(query("max(balancer_choices_total)"), Some(5.0));
        assert_eq!(query("count(balancer_member_info)"), Some(2.0));
        // Counts go on, and an alert begins.
        client::requests(running.address(), 2);
        wait_until("the next scrape", || {
            query("sum(balancer_connections_total)").is_some_and(|count| count > 11.5)
        });
        running.kill();
        wait_until("the alert", || {
            let alerts = ask(ADDRESS, "alerts").to_string();
            alerts.contains("BalancerAgentDown")
        });
        let rules = ask(ADDRESS, "rules");
        let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
        send(child.id(), Signal::TERM);
        child.wait().unwrap();
        metrics.stop();
    });
}

/// The names under which Prometheus has each metric, and its type.
fn exported(host: &Host) -> BTreeMap<String, String> {
    let text = host.succeed(&["metrics"]);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        (format!("{name}{suffix}"), kind.to_owned())
    });
    named.collect()
}

#[test]
fn the_page_lists_every_metric_and_its_type() {
    Host::with(|host| {
        let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `balancer_"));
        let listed = rows.map(|row| {
            let (name, rest) = row.split_once("` | ").unwrap();
            (format!("balancer_{name}"), rest.split(" |").next().unwrap().to_owned())
        });
        assert_eq!(listed.collect::<BTreeMap<_, _>>(), exported(host));
    });
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_there_are() {
    Host::with(|host| {
        let exported = exported(host);
        let histogram = |name: &str| {
            let base = name.strip_suffix("_bucket").unwrap_or_default();
            exported.get(base).is_some_and(|kind| kind == "histogram")
        };
        for file in ["contrib/prometheus/balancer.rules.yml", "contrib/grafana/balancer.json"] {
            let text = fs::read_to_string(root().join(file)).unwrap();
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let named: BTreeSet<&str> = words.filter(|w| w.starts_with("balancer_")).collect();
            assert!(named.len() > 5, "{file}: {named:?}");
            for name in named {
                assert!(exported.contains_key(name) || histogram(name), "{file}: {name}");
            }
        }
        let dashboard = fs::read_to_string(root().join("contrib/grafana/balancer.json")).unwrap();
        serde_json::from_str::<Value>(&dashboard).unwrap();
    });
}
