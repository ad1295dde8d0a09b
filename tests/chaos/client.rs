//! A client over one connection, which knows its own port and who answers.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use balancer_lab::{
    client::{of_hyper, of_io},
    report::ErrorKind,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{CONNECTION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::ledger::Attempt;

/// Nobody is stopped for that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that is open.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    port: u16,
    /// Who has answered on it.
    worker: Option<u32>,
}

/// A request over a connection of its own.
pub async fn ask_once(address: SocketAddr) -> Attempt {
    let (_, attempt) = Connection::open_and_ask(address, true).await;
    attempt
}

/// As [`ask_once`], by somebody who takes so long to ask: a worker has the request in hand meanwhile.
pub async fn ask_slowly(address: SocketAddr, pause: Duration) -> Attempt {
    let begun = Instant::now();
    let (mut port, mut worker) = (None, None);
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        port = Some(stream.local_addr()?.port());
        stream.write_all(b"GET / HTTP/1.1\r\nHost: chaos\r\n").await?;
        sleep(pause).await;
        stream.write_all(b"Connection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let failure = match patiently(asked).await {
        Ok(answer) if answer.is_empty() => Some(ErrorKind::Closed),
        Ok(answer) => {
            worker = who_answered(&answer).filter(|_| answer.starts_with("HTTP/1.1 200 "));
            worker.is_none().then_some(ErrorKind::Strange)
        }
        Err(failure) => Some(failure),
    };
    Attempt { port, connected: port.is_some(), begun, ended: Instant::now(), worker, failure }
}

impl Connection {
    /// Opens one and asks; what is open after that, unless it is the `last` request.
    pub async fn open_and_ask(address: SocketAddr, last: bool) -> (Option<Self>, Attempt) {
        let begun = Instant::now();
        let failed = |port, failure| Attempt {
            port,
            connected: port.is_some(),
            begun,
            ended: Instant::now(),
            worker: None,
            failure: Some(failure),
        };
        let stream = match patiently(TcpStream::connect(address)).await {
            Ok(stream) => stream,
            Err(failure) => return (None, failed(None, failure)),
        };
        let Ok(port) = stream.local_addr().map(|address| address.port()) else {
            return (None, failed(None, ErrorKind::Other));
        };
        let (sender, connection) = match handshake(TokioIo::new(stream)).await {
            Ok(both) => both,
            Err(error) => return (None, failed(Some(port), of_hyper(&error))),
        };
        // Its end shows at the sender.
        tokio::spawn(connection);
        let mut open = Self { sender, port, worker: None };
        let attempt = Attempt { begun, connected: true, ..open.ask(last).await };
        (Some(open), attempt)
    }

    /// Asks; `last`: the worker shall close the connection.
    pub async fn ask(&mut self, last: bool) -> Attempt {
        let begun = Instant::now();
        let answer = self.answer(last).await;
        let failure = answer.as_ref().err().copied();
        self.worker = answer.ok().or(self.worker);
        Attempt {
            port: Some(self.port),
            connected: false,
            begun,
            ended: Instant::now(),
            worker: self.worker,
            failure,
        }
    }

    /// Whether it is known to be closed.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    async fn answer(&mut self, last: bool) -> Result<u32, ErrorKind> {
        let mut request = Request::new(Empty::new());
        request.headers_mut().insert(HOST, HeaderValue::from_static("chaos"));
        if last {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let asked = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            read(answer).await
        };
        let answer = timeout(PATIENCE, asked).await.map_err(|_| ErrorKind::Timeout)?;
        answer.map_err(|error| of_hyper(&error))?.ok_or(ErrorKind::Strange)
    }
}

/// The PID of who answered.
async fn read(answer: Response<Incoming>) -> hyper::Result<Option<u32>> {
    let good = answer.status() == StatusCode::OK;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(who_answered(&String::from_utf8_lossy(&body)).filter(|_| good))
}

/// The PID at the end of an answer.
fn who_answered(text: &str) -> Option<u32> {
    let (_, pid) = text.trim_end().strip_suffix(']')?.rsplit_once("PID: [")?;
    pid.parse().ok()
}

async fn patiently<T>(answer: impl Future<Output = io::Result<T>>) -> Result<T, ErrorKind> {
    let answer = timeout(PATIENCE, answer).await.map_err(|_| ErrorKind::Timeout)?;
    answer.map_err(|error| of_io(&error))
}
