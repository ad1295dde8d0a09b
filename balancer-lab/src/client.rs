//! The client of a load: hyper over a connection of our own, and what can become of a request.

use std::{io, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{CONNECTION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::report::ErrorKind;
use crate::work::{SLOT_HEADER, Work};

/// After this long, nobody waits for an answer any more.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// An open connection.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// What became of it.
    pub async fn open(address: SocketAddr) -> Result<Self, ErrorKind> {
        let stream =
            patiently(async { TcpStream::connect(address).await.map_err(|error| of_io(&error)) })
                .await?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| of_hyper(&error))?;
        // Its end shows at the sender.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Asks for work and waits until it is done. Returns the slot of the worker that did it, if the
    /// answer tells. `last`: the worker shall close the connection.
    ///
    /// # Errors
    /// What became of it.
    pub async fn ask(&mut self, work: Work, last: bool) -> Result<Option<u32>, ErrorKind> {
        patiently(self.ask_and_wait(work, last)).await
    }

    async fn ask_and_wait(&mut self, work: Work, last: bool) -> Result<Option<u32>, ErrorKind> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = work.path().try_into().map_err(|_| ErrorKind::Other)?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("balancer"));
        if last {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.sender.ready().await.map_err(|error| of_hyper(&error))?;
        let answer = self.sender.send_request(request).await.map_err(|error| of_hyper(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(ErrorKind::Strange);
        }
        let slot =
            answer.headers().get(SLOT_HEADER).and_then(|slot| slot.to_str().ok()?.parse().ok());
        answer.into_body().collect().await.map_err(|error| of_hyper(&error))?;
        Ok(slot)
    }
}

async fn patiently<T>(answer: impl Future<Output = Result<T, ErrorKind>>) -> Result<T, ErrorKind> {
    timeout(PATIENCE, answer).await.unwrap_or(Err(ErrorKind::Timeout))
}

/// What became of it, told by the kernel.
pub fn of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ErrorKind::Reset,
        io::ErrorKind::UnexpectedEof => ErrorKind::Closed,
        _ => ErrorKind::Other,
    }
}

/// What became of it, told by hyper.
pub fn of_hyper(error: &hyper::Error) -> ErrorKind {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    match source {
        Some(error) => of_io(error),
        None if error.is_parse() => ErrorKind::Strange,
        // It was closed between two requests, or in the middle of an answer.
        None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
            ErrorKind::Closed
        }
        None => ErrorKind::Other,
    }
}
