//! Wakes workers that wait, while connections out of a dead worker's queue wait with them.
//!
//! A kernel without "tcp: call sk_data_ready() after listener migration" (CVE-2026-46015) puts such
//! connections into the queue of a listener, and tells nobody: its worker sleeps on until its next
//! new connection. `shutdown` for writing does nothing to a listening socket, but whoever sleeps on
//! it looks again (`inet_shutdown`), by epoll of either kind, `poll` or `accept`. Who finds nothing
//! sleeps on and never knew. So there is no need to ask which kernel it is.

use std::{net::Shutdown, slice};

use crate::error::Result;
use socket2::SockRef;

use super::Steering;

impl Steering {
    /// Wakes each worker to whom connections ever migrated.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read. Who is gone is not there to be woken, and no error.
    pub(super) fn wake_heirs(&self) -> Result<()> {
        for member in self.members()? {
            if self.maps.tally(member.slot)?.migrated == 0 || !self.is_seated(&member)? {
                continue;
            }
            let Ok(Some(socket)) = self.duplicate_socket_among(slice::from_ref(&member)) else {
                continue;
            };
            let socket = SockRef::from(&socket);
            // Of a socket that does not listen, it would be the end.
            if socket.is_listener().unwrap_or(false) {
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
        Ok(())
    }
}
