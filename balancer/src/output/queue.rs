//! What waits to be written.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use super::{Item, Stream};

/// After this time in one write, nobody reads.
const UNREAD: Duration = Duration::from_secs(1);

/// As many lines may wait until workers have to wait that print more; half as many of the agent's own
/// lines may come on top.
const LINES: usize = 1024;

/// How often is looked whether lines that wait are read at all.
const INTERVAL: Duration = Duration::from_millis(100);

/// Where items end.
pub(super) trait Sink {
    fn write(&mut self, item: Item) -> io::Result<()>;
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// Since when the item before them is being written.
    writing: Option<Instant>,
    dropped: u64,
    error: Option<io::Error>,
}

/// What one thread writes.
pub(super) struct Queue {
    /// Where it says what was dropped.
    stream: Stream,
    /// Nothing is dropped.
    patient: bool,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    room: Notify,
}

impl Waiting {
    fn is_unread(&self) -> bool {
        self.writing.is_some_and(|since| since.elapsed() >= UNREAD)
    }

    fn has_room(&self) -> bool {
        self.items.len() < LINES || self.is_unread()
    }

    /// What is to be said of lines that were dropped.
    fn take_dropped(&mut self, stream: Stream) -> Option<Item> {
        let dropped = std::mem::take(&mut self.dropped);
        let line = format!("{dropped} lines were dropped here, because nobody read them\n");
        (dropped > 0).then_some(Item::Text(stream, line))
    }
}

impl Queue {
    pub fn start(stream: Stream, patient: bool, mut to: impl Sink + Send + 'static) -> Arc<Self> {
        let queue = Arc::new(Self {
            stream,
            patient,
            waiting: Mutex::default(),
            changed: Condvar::new(),
            room: Notify::new(),
        });
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_out(&mut to));
        queue
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, item: Item) {
        let mut waiting = self.waiting();
        let full = waiting.is_unread() || waiting.items.len() >= LINES + LINES / 2;
        match item {
            Item::Text(..) if full && !self.patient => return waiting.dropped += 1,
            // The next one tells more.
            Item::Show(_) if !waiting.items.is_empty() => return,
            _ => {}
        }
        let dropped = waiting.take_dropped(self.stream);
        waiting.items.extend(dropped);
        waiting.items.push_back(item);
        self.changed.notify_all();
    }

    /// Waits until there is room, or nobody reads.
    pub async fn room(&self) {
        loop {
            let changed = self.room.notified();
            if self.waiting().has_room() {
                return;
            }
            let _ = timeout(INTERVAL, changed).await;
        }
    }

    /// For ever.
    fn write_out(&self, to: &mut impl Sink) {
        loop {
            let item = self.next();
            let result = to.write(item);
            let mut waiting = self.waiting();
            waiting.writing = None;
            if let Err(error) = result {
                waiting.error.get_or_insert(error);
            }
            drop(waiting);
            self.changed.notify_all();
            self.room.notify_waiters();
        }
    }

    /// Waits for the next item, which counts as being written from now on.
    fn next(&self) -> Item {
        let mut waiting = self.waiting();
        loop {
            let item = waiting.items.pop_front().or_else(|| waiting.take_dropped(self.stream));
            if let Some(item) = item {
                waiting.writing = Some(Instant::now());
                return item;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn finish(&self, deadline: Instant) -> io::Result<()> {
        let mut waiting = self.waiting();
        while !waiting.items.is_empty() || waiting.writing.is_some() || waiting.dropped > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !self.patient {
                break;
            }
            let left = if self.patient { Duration::MAX } else { left };
            let woken = self.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        match waiting.error.take() {
            Some(error) if self.patient => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes an item each time that it is let.
    struct Gate(Receiver<()>, Sender<String>);

    impl Sink for Gate {
        fn write(&mut self, item: Item) -> io::Result<()> {
            if let (Ok(()), Item::Text(_, text)) = (self.0.recv(), item) {
                let _ = self.1.send(text);
            }
            Ok(())
        }
    }

    fn gated(patient: bool) -> (Arc<Queue>, Sender<()>, Receiver<String>) {
        let ((open, gate), (sender, written)) = (channel(), channel());
        (Queue::start(Stream::Out, patient, Gate(gate, sender)), open, written)
    }

    fn line(text: &str) -> Item {
        Item::Text(Stream::Out, text.to_owned())
    }

    fn until_unread(queue: &Queue) {
        while !queue.waiting().is_unread() {
            thread::yield_now();
        }
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted_once_somebody_does() {
        let (queue, open, written) = gated(false);
        queue.push(line("first"));
        until_unread(&queue);
        (0..10_000).for_each(|_| queue.push(line("unread")));
        assert!(queue.waiting().items.is_empty() && queue.waiting().has_room());
        open.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), "first");
        open.send(()).unwrap();
        let said = written.recv().unwrap();
        assert!(said.starts_with("10000 lines were dropped"), "{said}");
        queue.push(line("next"));
        open.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), "next");
    }

    #[test]
    fn a_command_drops_nothing() {
        let (queue, open, written) = gated(true);
        (0..10_000).for_each(|_| queue.push(line("a line")));
        until_unread(&queue);
        queue.push(line("last"));
        (0..=10_000).for_each(|_| open.send(()).unwrap());
        queue.finish(Instant::now()).unwrap();
        assert_eq!(written.try_iter().count(), 10_001);
    }

    #[test]
    fn an_agent_ends_though_nobody_reads() {
        let (queue, _open, _written) = gated(false);
        queue.push(line("unread"));
        queue.finish(Instant::now()).unwrap();
    }

    #[test]
    fn lines_that_are_read_slowly_are_kept_as_long_as_workers_wait_for_room() {
        let (queue, open, written) = gated(false);
        let mut pushed = 0;
        while queue.waiting().has_room() {
            queue.push(line("a line"));
            pushed += 1;
        }
        assert!(pushed >= LINES);
        (0..pushed).for_each(|_| open.send(()).unwrap());
        queue.finish(Instant::now() + UNREAD).unwrap();
        assert_eq!(written.try_iter().count(), pushed);
    }
}
