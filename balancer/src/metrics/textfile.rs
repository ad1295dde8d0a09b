//! Writes metrics to a file for node_exporter's textfile collector, which may read it at any moment.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval};

use super::{Format, Metrics};

/// node_exporter runs as a user of its own.
const MODE: u32 = 0o644;

/// Writes the file: its reader finds the old text or the new one, and nothing between.
///
/// # Errors
/// Returns an error if the directory is not there or cannot be written to; the file is as it was.
pub fn write(metrics: &Metrics, path: &Path) -> Result<()> {
    let text = metrics.scrape(Format::Prometheus)?;
    let temporary = beside(path);
    let written = replace(path, &temporary, text.as_bytes());
    if written.is_err() {
        // It may not be there.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| {
        format!("cannot write {}; its directory must exist and have room", path.display())
    })
}

fn replace(path: &Path, temporary: &Path, text: &[u8]) -> io::Result<()> {
    // Of a process that was killed, and had our number.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(temporary)?;
    file.write_all(text)?;
    fs::rename(temporary, path)
}

/// In the same directory, or it could not be renamed; hidden, and not `*.prom`, which is what is read.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", process::id()));
    path.with_file_name(name)
}

/// Writes the file again and again, and removes it at the end: figures that nobody renews are worse than
/// none.
///
/// # Errors
/// Returns an error if it cannot be written the first time, or be removed. Later ones are reported, and it
/// goes on.
pub async fn keep(
    metrics: &Metrics,
    path: &Path,
    every: Duration,
    end: impl Future<Output = ()>,
) -> Result<()> {
    write(metrics, path)?;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let again = async {
        loop {
            ticks.tick().await;
            if let Err(error) = write(metrics, path) {
                tracing::warn!("{error:#}");
            }
        }
    };
    tokio::select! {
        () = again => {}
        () = end => {}
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
