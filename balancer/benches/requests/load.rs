//! As many requests as one CPU makes and answers: from one thread, on connections that stay, one request
//! under way on each.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::own_server::REQUEST;

/// Connections: some, so that client and server take turns less often than they would for each request.
const CONNECTIONS: usize = 32;

/// Longer than an answer.
const ROOM: usize = 4096;

/// Asks for so long; requests a second.
///
/// # Errors
/// Returns an error if a request is not answered.
pub fn rate(address: SocketAddr, time: Duration) -> Result<f64> {
    let open = |_| TcpStream::connect(address).context("cannot connect");
    let mut connections = (0..CONNECTIONS).map(open).collect::<Result<Vec<_>>>()?;
    // Answers to the same request are of the same length.
    let length = round(&mut connections, None)?;
    let (mut asked, began) = (0u32, Instant::now());
    while began.elapsed() < time {
        round(&mut connections, Some(length))?;
        asked += 1;
    }
    Ok(f64::from(asked) * CONNECTIONS as f64 / began.elapsed().as_secs_f64())
}

/// One request on each; how long an answer was.
fn round(connections: &mut [TcpStream], expected: Option<usize>) -> Result<usize> {
    for connection in &mut *connections {
        connection.write_all(REQUEST).context("cannot send a request")?;
    }
    let (mut room, mut length) = ([0; ROOM], 0);
    for connection in connections {
        length = connection.read(&mut room).context("a request was not answered")?;
        ensure!(
            length > 0 && expected.is_none_or(|expected| length == expected),
            "an answer of {length} octets came rather than {expected:?}"
        );
    }
    Ok(length)
}
