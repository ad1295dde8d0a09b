//! Waiting until a point in time, to some microseconds: tokio's own timer has a resolution of a
//! millisecond, and rounds up.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A timer of the kernel's in an event loop.
pub struct Pacer {
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// A new one, in the event loop of this thread.
    ///
    /// # Errors
    /// Returns an error if the kernel has none to give.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor is owned, so it stays open and the same until it is deregistered.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { timer })
    }

    /// Returns when `due` has come; at once if it has passed.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses the time.
    pub async fn until(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        // A time of zero would disarm it.
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: Timespec::default(), it_value: timespec(left)? };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let expired = |timer: &OwnedFd| Ok(rustix::io::read(timer, &mut [0; 8])?);
        self.timer.async_io(Interest::READABLE, expired).await?;
        Ok(())
    }
}

fn timespec(time: Duration) -> io::Result<Timespec> {
    time.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
