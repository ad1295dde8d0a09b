//! `balancer metrics`: what is known of all groups, for Prometheus.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use balancer_steering::steering::Store;
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{GroupArgs, MetricsArgs},
    commands::open_scope,
    error::UsageError,
    metrics::{Format, Metrics, server, textfile},
    render::say,
};

/// Prints, serves or writes them.
pub fn metrics(args: &MetricsArgs, store: &Store) -> Result<()> {
    let stays = args.listen.is_some() || (args.textfile.is_some() && !args.once);
    if args.observe && !stays {
        return Err(UsageError::new(
            "--observe needs --listen, or --textfile without --once: of one print, requests would have \
             been tracked for no time",
        )
        .into());
    }
    if !stays && (args.group.is_some() || args.service.is_some()) {
        // One that stays may wait for its group; this would have nothing to show.
        open_scope(store, &GroupArgs { group: args.group.clone(), service: args.service })?;
    }
    let open = || Metrics::new(store, args.group.as_deref(), args.service, args.observe);
    match (&args.listen, &args.textfile) {
        (Some(address), _) => runtime()?.block_on(async {
            let end = end()?;
            let listener = server::listen(address.0).await?;
            let metrics = Arc::new(open()?);
            let address = listener.local_addr().context("cannot read the socket's address")?;
            say(format_args!("serving metrics at http://{address}/metrics"))?;
            server::serve(metrics, listener, end).await
        }),
        (None, Some(path)) if args.once => textfile::write(&open()?, path),
        (None, Some(path)) => runtime()?
            .block_on(async { textfile::keep(&open()?, path, args.interval.0, end()?).await }),
        (None, None) => {
            let text = open()?.scrape(Format::OpenMetrics)?;
            io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
        }
    }
}

fn runtime() -> Result<Runtime> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")
}

/// Ends with SIGINT or SIGTERM, which end the process no longer by themselves.
fn end() -> Result<impl Future<Output = ()>> {
    let open = |kind| signal(kind).context("cannot wait for signals");
    let (mut interrupt, mut terminate) =
        (open(SignalKind::interrupt())?, open(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
