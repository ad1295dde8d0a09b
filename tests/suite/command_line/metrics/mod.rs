//! Metrics: their figures are those of the group, all ways to get them work, and tools that read metrics
//! read these.

mod figures;
mod tools;
mod ways;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
};

use harness::{Host, Running};

/// The value of each series, by its name with labels.
type Series = BTreeMap<String, f64>;

fn series(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    parsed.collect()
}

/// The sum over all series of a metric.
fn sum(series: &Series, metric: &str) -> f64 {
    let of = |name: &&String| name.split('{').next() == Some(metric);
    series.iter().filter(|(name, _)| of(name)).map(|(_, value)| value).sum()
}

fn is(value: f64, expected: u32) {
    assert!((value - f64::from(expected)).abs() < 1e-9, "{value} rather than {expected}");
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// `metrics --listen` on a free port, and where it serves.
fn serve(host: &Host, args: &[&str]) -> (Running, String) {
    let mut running = host.start(&[&["metrics", "--listen", "127.0.0.1:0"], args].concat());
    let line = running.wait_for("serving metrics at http://");
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    (running, address)
}

/// Head and body of the answer.
fn http(address: &str, request: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let close = "Connection: close\r\n";
    write!(stream, "{request} HTTP/1.1\r\nHost: {address}\r\n{close}{headers}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn scrape(address: &str) -> Series {
    series(&http(address, "GET /metrics", "").1)
}
