//! Serves metrics over HTTP: one page, for Prometheus and for `curl`.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use super::{Format, Metrics};

/// Where metrics are, by convention.
const PATH: &str = "/metrics";

/// Connections at once. A scrape is short, and a client that opens more waits.
const MOST_CONNECTIONS: usize = 64;

/// How long a client may take to send its next request: longer than the usual time between two scrapes, so
/// that Prometheus keeps its connection.
const PATIENCE: Duration = Duration::from_secs(150);

/// How long scrapes that are under way may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Listens.
///
/// # Errors
/// Returns an error that says what to do if another process has the port, or the address is not of this
/// machine.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| {
        let port = address.port();
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "`ss -ltnp sport = :{port}` shows which process has the port; choose another with --listen"
            ),
            io::ErrorKind::AddrNotAvailable => {
                "`ip address` lists the addresses of this machine".to_owned()
            }
            _ => "choose another address with --listen".to_owned(),
        };
        anyhow::anyhow!("cannot serve metrics at {address}: {error}; {remedy}")
    })
}

/// Serves until `end`; then finishes what is under way.
///
/// # Errors
/// Returns an error if the listening socket fails.
pub async fn serve(
    metrics: Arc<Metrics>,
    listener: TcpListener,
    end: impl Future<Output = ()>,
) -> Result<()> {
    let mut connections = JoinSet::new();
    let graceful = GracefulShutdown::new();
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let connection = graceful.watch(connection(Arc::clone(&metrics), stream));
                    connections.spawn(async {
                        if let Err(error) = connection.await {
                            tracing::debug!("a connection ended early: {error}");
                        }
                    });
                }
                // One that was reset in the queue, or a lack of descriptors.
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = &mut end => break,
        }
    }
    drop(listener);
    let _ = timeout(GRACE, graceful.shutdown()).await;
    connections.shutdown().await;
    Ok(())
}

/// A response with its whole body.
type Answer = Response<Full<Bytes>>;

fn connection(
    metrics: Arc<Metrics>,
    stream: TcpStream,
) -> impl GracefulConnection<Error = hyper::Error, Output = hyper::Result<()>> + Send {
    let service = service_fn(move |request| answer(Arc::clone(&metrics), request));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
}

async fn answer(
    metrics: Arc<Metrics>,
    request: Request<Incoming>,
) -> std::result::Result<Answer, Infallible> {
    let page = request.uri().path() == PATH;
    Ok(match *request.method() {
        _ if !page => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
        // hyper leaves the body out for HEAD.
        Method::GET | Method::HEAD => scrape(metrics, &request).await,
        _ => {
            let mut answer =
                plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            answer
        }
    })
}

async fn scrape(metrics: Arc<Metrics>, request: &Request<Incoming>) -> Answer {
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
    // It reads the kernel's maps, and waits for no network; but others are to be answered meanwhile.
    match spawn_blocking(move || metrics.scrape(format)).await {
        Ok(Ok(text)) => {
            let mut answer = Response::new(Full::from(text));
            let kind = HeaderValue::from_static(format.content_type());
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        Ok(Err(error)) => failed(&format!("{error:#}")),
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(error: &str) -> Answer {
    tracing::error!("a scrape failed: {error}");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be read; see the log of balancer\n")
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
