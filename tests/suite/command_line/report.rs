//! The page of a comparison in a real browser: whole, drawn, silent, and without a request.

use std::{
    fs,
    process::{Command, Stdio},
};

use balancer_lab::{read, render};
use harness::lacking;
use serde_json::Value;
use tempfile::TempDir;

const BROWSER: &str = "chromium";

/// What a browser made of a page.
struct Visit {
    /// The document once it was loaded.
    dom: String,
    /// What was said on the console: errors, and what the page's own policy forbade.
    console: Vec<String>,
    /// What it asked the network for.
    requests: Vec<String>,
    /// The bytes of a picture of it.
    picture: Vec<u8>,
}

fn page() -> String {
    let report =
        read::report(include_str!("../../../balancer-lab/tests/fixtures/compare.json")).unwrap();
    render::html(&report)
}

/// Whether there is a browser. Only CI must have one.
fn browser() -> bool {
    let version = Command::new(BROWSER).arg("--version").stdout(Stdio::null()).status();
    let found = version.is_ok_and(|status| status.success());
    if !found {
        lacking(BROWSER);
    }
    found
}

fn visit(page: &str) -> Visit {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("page.html"), page).unwrap();
    let run = |what: &str| {
        let output = Command::new(BROWSER)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"])
            .args(["--enable-logging=stderr", "--window-size=1000,2000"])
            .arg(format!("--user-data-dir={}", path("profile")))
            .arg(format!("--log-net-log={}", path("requests.json")))
            .args([what, &format!("file://{}", path("page.html"))])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), errors)
    };
    run(&format!("--screenshot={}", path("picture.png")));
    let (dom, errors) = run("--dump-dom");
    let log: Value = serde_json::from_slice(&fs::read(path("requests.json")).unwrap()).unwrap();
    let events = log["events"].as_array().unwrap().iter().map(|event| &event["params"]);
    // The browser has questions of its own, which have another initiator and find no network.
    let of_page =
        |event: &&Value| event["initiator"].as_str().is_some_and(|by| by != "not an origin");
    let urls = events.filter(of_page).map(|event| &event["url"]);
    Visit {
        dom,
        console: errors.lines().filter(|l| l.contains("CONSOLE")).map(str::to_owned).collect(),
        requests: urls.filter_map(Value::as_str).map(str::to_owned).collect(),
        picture: fs::read(path("picture.png")).unwrap(),
    }
}

#[test]
fn the_page_is_drawn_without_an_error_or_a_request() {
    if !browser() {
        return;
    }
    let visit = visit(&page());
    assert_eq!(visit.console, [""; 0]);
    assert_eq!(visit.requests, [""; 0]);

    // Two scenarios with three charts each.
    let charts: Vec<&str> = visit.dom.split("<svg ").skip(1).collect();
    assert_eq!(charts.len(), 6);
    for chart in charts {
        let chart = chart.split_once("</svg>").unwrap().0;
        let drawn = ["<polyline", "<rect"].map(|shape| chart.matches(shape).count());
        assert!(drawn.iter().sum::<usize>() >= 4, "{chart}");
        assert!(!chart.contains("NaN") && !chart.contains("points=\"\""), "{chart}");
    }
    assert!(visit.dom.trim_end().ends_with("</html>"));
    assert!(visit.picture.len() > 50_000, "a picture of {} bytes", visit.picture.len());
}

#[test]
fn an_error_or_a_request_would_be_seen() {
    if !browser() {
        return;
    }
    let image = "<body><img src=\"http://127.0.0.1:9/a.png\">";
    let forbidden = visit(&page().replace("<body>", image));
    assert!(forbidden.console.iter().any(|line| line.contains("Content Security Policy")));
    assert!(!forbidden.requests.iter().any(|url| url.contains("a.png")));
    let allowed = page().replace("<body>", image).replace("Content-Security-Policy", "none");
    let requests = visit(&allowed).requests;
    assert!(requests.iter().any(|url| url.contains("a.png")), "{requests:?}");
}
