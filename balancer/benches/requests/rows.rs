//! Which servers are asked how: the rows of the table.

use std::time::Duration;

use crate::{
    client::Way,
    own_server::Behaviour,
    server::{FILE, Server},
};

/// A server, and how it is asked.
pub struct Row {
    /// Its name in the table.
    pub name: &'static str,
    /// The server.
    pub server: Server,
    /// How it is asked.
    pub way: Way,
    /// What for, after the slash.
    pub path: &'static str,
    /// How many requests each client sends.
    pub requests: usize,
}

const fn row(name: &'static str, server: Server, way: Way, requests: usize) -> Row {
    Row { name, server, way, path: "", requests }
}

/// Our own server, so many milliseconds late.
const fn late(to_read: u64, to_answer: u64) -> Server {
    let (to_read, to_answer) = (Duration::from_millis(to_read), Duration::from_millis(to_answer));
    Server::Own(Behaviour { to_read, to_answer, freezes: false })
}

/// Each of four clients meets it, and they are two of a hundred requests.
const FREEZES: Server = Server::Own(Behaviour {
    to_read: Duration::ZERO,
    to_answer: Duration::from_millis(1),
    freezes: true,
});

/// All, in the order of the table.
pub const ALL: [Row; 19] = [
    row("own, 0 ms", late(0, 0), Way::KeepAlive, 2000),
    row("own, 1 ms", late(0, 1), Way::KeepAlive, 500),
    row("own, 20 ms", late(0, 20), Way::KeepAlive, 100),
    row("own, 500 ms", late(0, 500), Way::KeepAlive, 6),
    row("own, 20 ms, 10 of them unread", late(10, 10), Way::KeepAlive, 100),
    row("own, 1 ms, once 1 s", FREEZES, Way::KeepAlive, 50),
    row("own, 0 ms", late(0, 0), Way::ConnectionEach, 1000),
    row("own, 20 ms", late(0, 20), Way::ConnectionEach, 100),
    row("own, 20 ms", late(0, 20), Way::Pipelined, 100),
    row("nginx", Server::Nginx, Way::KeepAlive, 5000),
    row("nginx", Server::Nginx, Way::ConnectionEach, 1000),
    Row { path: FILE, ..row("nginx, 1 MiB by sendfile", Server::Nginx, Way::KeepAlive, 200) },
    row("nginx, passes on to 20 ms", Server::NginxTls, Way::Tls, 100),
    row("Go, net/http", Server::Go, Way::KeepAlive, 2000),
    row("Go, net/http", Server::Go, Way::ConnectionEach, 500),
    row("gunicorn", Server::Gunicorn, Way::ConnectionEach, 250),
    row("Python, asyncio", Server::Python, Way::ConnectionEach, 250),
    row("Node", Server::Node, Way::KeepAlive, 1000),
    row("Node", Server::Node, Way::ConnectionEach, 250),
];
