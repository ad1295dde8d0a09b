//! Workers that say themselves how much they have to do.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use balancer_steering::steering::{Steering, Store};
use harness::{Host, running::wait_until};

/// Asks for so many milliseconds of work.
fn ask(address: std::net::SocketAddr, work: u64) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /{work} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn worker(mut stream: TcpStream) -> u64 {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, rest) = answer.split_once("PID: [").unwrap();
    rest.split_once(']').unwrap().0.parse().unwrap()
}

/// The same promise, kept by Rust and by Python.
#[test]
fn who_reports_much_gets_nothing_while_others_report_less() {
    let rust = harness::host::balancer().with_file_name("examples").join("reporting");
    assert!(rust.exists(), "{} is not built; run `cargo xtask test`", rust.display());
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/reporting.py");
    for command in [vec![rust.to_str().unwrap().to_owned()], vec!["python3".into(), python.into()]]
    {
        Host::with(move |host| {
            let run = ["--workers", "3", "--name", "web", "--policy", "least-connections"];
            let mut args = [&run[..], &["--load", "reported", "--"]].concat();
            args.extend(command.iter().map(String::as_str));
            let running = host.run(&args);
            let steering = Steering::open(&Store::at(host.bpffs()), "web").unwrap();
            let loads = || [0, 1, 2].map(|slot| steering.reported(slot));
            let busy = ask(running.address(), 3000);
            wait_until("one says that it is busy", || loads().contains(&3000));
            let slot = loads().iter().position(|load| *load == 3000).unwrap();
            let status = host.status();
            assert_eq!(status["members"][slot]["load"], 3000);
            let pid = status["members"][slot]["pid"].as_u64().unwrap();
            for _ in 0..20 {
                assert_ne!(worker(ask(running.address(), 1)), pid);
            }
            assert_eq!(worker(busy), pid);
            assert_eq!(loads()[slot], 0);
            running.stop();
        });
    }
}

#[test]
fn what_cannot_report_is_refused() {
    Host::with(|host| {
        host.refuse(2, &["run", "--load", "reported"], &["--load", "handed its socket"]);
    });
}
