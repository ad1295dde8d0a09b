//! The log lines of the programs, as they come.

use std::io;

use balancer_steering::steering::Logs;
use tokio::io::{Interest, unix::AsyncFd};

/// Waits for log lines and hands them to the process's logger, for ever.
///
/// # Errors
/// Returns an error if the ring buffer cannot be waited for.
pub async fn forward(logs: Logs) -> io::Result<()> {
    // SAFETY: `Logs` owns its descriptor and shows the same one for as long as it lives.
    let mut logs = unsafe { AsyncFd::register_with_interest(logs, Interest::READABLE) }?;
    loop {
        let mut guard = logs.readable_mut().await?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
