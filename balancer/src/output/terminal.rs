//! Where items are written: the process's own streams.

use std::{
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use balancer_steering::escape;
use rustix::stdio::{stderr, stdout};

use super::{Item, Shown, Stream, queue::Sink};
use crate::render::{line, live::LiveView};

/// How often a terminal that has no live view is told how the group is.
const PLAIN: Duration = Duration::from_millis(900);

/// The process's own streams, of which one may have a live view at its end.
#[derive(Default)]
pub(super) struct Terminal {
    view: Option<LiveView>,
    told: Option<Instant>,
}

impl Sink for Terminal {
    fn write(&mut self, item: Item) -> io::Result<()> {
        match (item, &mut self.view) {
            (Item::Text(_, text), Some(view)) => view.line(text.trim_end()),
            (Item::Text(stream, text), None) => write_all(stream, &text),
            // A terminal that does not answer gets plain lines.
            (Item::View(members), _) => {
                self.view = LiveView::start(members).ok();
                Ok(())
            }
            (Item::Show(shown), Some(view)) => view.update(&shown.snapshot, &shown.rates),
            (Item::Show(_), None) if self.told.is_some_and(|told| told.elapsed() < PLAIN) => Ok(()),
            (Item::Show(shown), None) => {
                self.told = Some(Instant::now());
                let Shown { snapshot, rates, elapsed } = *shown;
                let line = format!("{}\n", line::progress(&snapshot, &rates, elapsed));
                write_all(Stream::Out, &line)
            }
            (Item::EndView, view) => view.take().map_or(Ok(()), |mut view| view.finish()),
        }
    }
}

/// Past the buffer of the standard library, whose lock a thread that waits here would keep.
fn write_all(stream: Stream, text: &str) -> io::Result<()> {
    let to: BorrowedFd<'_> = if stream == Stream::Out { stdout() } else { stderr() };
    let text = escape::shown(text, &to);
    let mut text = text.as_bytes();
    while !text.is_empty() {
        match rustix::io::write(to, text) {
            Ok(written) => text = text.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
