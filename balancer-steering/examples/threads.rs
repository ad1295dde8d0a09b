//! A hyper server with a listener for each thread, steered by `least-connections` without a line in the
//! handler. Started twice, it is one group of two processes.
//!
//!     cargo build -p balancer-steering --example threads
//!     sudo target/debug/examples/threads 127.0.0.1:8080 4

use std::{convert::Infallible, env, error::Error, net::SocketAddr, thread};

use balancer_steering::{Group, listen, policy::Policy, weight::Weight};
use hyper::{Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

type Anything = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Anything> {
    let mut args = env::args().skip(1);
    let address: SocketAddr = args.next().ok_or("which address?")?.parse()?;
    let threads: usize = args.next().ok_or("how many threads?")?.parse()?;
    let bpffs = args.next().unwrap_or_else(|| "/sys/fs/bpf".to_owned());
    let serve = move || serve(address, &bpffs);
    let threads: Vec<_> = (0..threads).map(|_| thread::spawn(serve.clone())).collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(())
}

/// One thread: its own socket, its own event loop, until SIGTERM.
#[tokio::main(flavor = "current_thread")]
async fn serve(address: SocketAddr, bpffs: &str) -> Result<(), Anything> {
    let mut stop = signal(SignalKind::terminate())?;
    let listener = listen(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;

    let group = Group::builder("web").policy(Policy::LeastConnections).bpffs(bpffs);
    let group = group.open_or_plain(&listener);
    if let Some(reason) = group.not_steered() {
        eprintln!("the kernel's hash chooses: {reason:#}");
    }
    let membership = group.join(&listener, Weight::ONE)?;

    println!("slot {:?} serves", membership.slot());
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = stop.recv() => return Ok(membership.leave()?),
        };
        let slot = membership.slot().map_or_else(|| "none".to_owned(), |slot| slot.to_string());
        tokio::spawn(async move {
            let answer = service_fn(move |_| {
                let slot = slot.clone();
                async move {
                    let body = http_body_util::Full::<Bytes>::from(format!("slot {slot}\n"));
                    Ok::<_, Infallible>(Response::new(body))
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
