//! The built-in worker: a small HTTP server that answers who it is. One process, one thread; its
//! listening socket is its standard input, and no other process has it.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use balancer_lab::{
    exclusive::make_exclusive,
    work::{SLOT_HEADER, Work},
};
use balancer_steering::{process::inherited_listener, steering::WorkerMaps};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::{
    process::{Signal, getppid},
    thread::set_name,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    task::{JoinSet, yield_now},
    time::timeout,
};

use crate::{
    cli::{ComparedArgs, WorkerArgs},
    parent,
};

const POLICY_HEADER: HeaderName = HeaderName::from_static("x-balancer-policy");

/// A client that was accepted before we were told to stop may have its first request under way;
/// hyper would close such a connection as idle.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

struct Worker {
    slot: u32,
    pid: u32,
    /// None where the group was given back to the kernel before this worker was started.
    maps: Option<WorkerMaps>,
    compared: ComparedArgs,
}

/// Serves until SIGTERM; then takes what waits in the queue, finishes the requests in flight, and
/// returns.
///
/// # Errors
/// Returns an error if standard input is no listening socket, the group's maps cannot be opened, or it may not become
/// the user it shall be.
pub fn run(args: &WorkerArgs, directory: &Path) -> Result<ExitCode> {
    let (slot, compared) = (args.slot, args.compared);
    if compared.work.is_some() {
        // Else what is compared would outlive a comparison that was killed.
        parent::end_with(getppid(), Signal::KILL).context("cannot ask to end with the agent")?;
    }
    // Else it goes by the name of /proc/self/exe, through which it was started.
    let _ = set_name(c"balancer");
    let listener = inherited_listener().context("cannot take over the listening socket")?;
    let maps = directory.exists().then(|| WorkerMaps::open(directory)).transpose()?;
    if let Some(user) = &args.user {
        user.become_it().with_context(|| format!("cannot become the user {}", user.name()))?;
    }
    let worker = Arc::new(Worker { slot, pid: std::process::id(), maps, compared });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the worker's event loop")?;
    runtime.block_on(serve(worker, listener))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(worker: Arc<Worker>, listener: StdListener) -> Result<()> {
    listener.set_nonblocking(true).context("cannot use the listening socket")?;
    let listener = TcpListener::from_std(listener).context("cannot use the listening socket")?;
    if worker.compared.shared {
        make_exclusive(&listener).context("cannot share the listening socket")?;
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();

    // The agent goes by this line. Where it is gone, the worker works on without it.
    let _ = writeln!(io::stdout(), "Server with PID: [{}] is running", worker.pid);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    connections.spawn(Arc::clone(&worker).serve(stream, client, stopping.clone()));
                    // One a turn of the loop, as nginx without `multi_accept`: a worker that is
                    // busy leaves in the queue what others could see there, or take.
                    yield_now().await;
                }
                Err(error) => recover(&error).await,
            },
            Some(_) = connections.join_next() => {}
            _ = terminate.recv() => break,
        }
    }
    let listener = listener.into_std().context("cannot use the listening socket")?;
    for (stream, client) in queued(&listener) {
        let stream = TcpStream::from_std(stream).context("cannot use a connection")?;
        connections.spawn(Arc::clone(&worker).serve(stream, client, stopping.clone()));
    }
    drop(listener);
    // Nobody listens where all connections have ended.
    let _ = stop.send(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The connections that wait to be accepted: ours to serve, for nobody else can in a group that
/// stops as a whole, and the one that a shared queue woke us for might wake nobody else.
fn queued(listener: &StdListener) -> impl Iterator<Item = (StdStream, SocketAddr)> {
    std::iter::from_fn(|| listener.accept().ok())
        .filter(|(stream, _)| stream.set_nonblocking(true).is_ok())
}

/// A connection that was reset in the queue is no reason to wait; a lack of descriptors is.
async fn recover(error: &io::Error) {
    tracing::warn!("cannot accept a connection: {error}");
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Worker {
    /// Serves one connection: until it ends, or, once `stopping`, until it has no request in flight.
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) {
        let asked = Arc::new(Notify::new());
        let service = service_fn(|request| {
            asked.notify_one();
            let worker = Arc::clone(&self);
            async move { Ok::<_, Infallible>(worker.answer(&request, client).await) }
        });
        // Who is done sending may still wait for its answer; hyper takes it for gone else, where it
        // finds that out between request and answer.
        let mut http = http1::Builder::new();
        let mut connection =
            pin!(http.half_close(true).serve_connection(TokioIo::new(stream), service));
        let told_to_stop = async {
            let _ = stopping.wait_for(|stopping| *stopping).await;
            let _ = timeout(FIRST_REQUEST, asked.notified()).await;
        };
        let ended = tokio::select! {
            result = connection.as_mut() => result,
            () = told_to_stop => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("connection of {client} ended early: {error}");
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        client: SocketAddr,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let work = self.compared.work.and_then(|times| Some((Work::from_path(path)?, times)));
        if let Some((work, times)) = work {
            Work { micros: work.micros.saturating_mul(times), ..work }.perform().await;
        }
        let (status, text) = match (request.method(), path) {
            (&Method::GET, _) if work.is_some() => (StatusCode::OK, String::new()),
            (&Method::GET, "/") => {
                // An IPv4 client of a dual-stack socket is shown as what it is.
                let client = SocketAddr::new(client.ip().to_canonical(), client.port());
                let text =
                    format!("Client [{client}] received msg from Server PID: [{}]\n", self.pid);
                (StatusCode::OK, text)
            }
            (_, "/") => (StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, "only / is served here\n".to_owned()),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(SLOT_HEADER, HeaderValue::from(self.slot));
        if let Some(policy) = self.maps.as_ref().and_then(|maps| maps.policy()) {
            response.headers_mut().insert(POLICY_HEADER, HeaderValue::from_static(policy.name()));
        }
        response
    }
}
