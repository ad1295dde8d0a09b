//! Requests without a pause, while something happens to those who answer.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::running::wait_until;

/// How many ask at once.
pub const CLIENTS: usize = 4;

/// Clients that ask again and again, over a connection each time.
pub struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<io::Error>>>,
}

impl Load {
    /// Starts them. They share the host of the thread that calls.
    pub fn start<T>(ask: impl Fn() -> io::Result<T> + Clone + Send + 'static) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let client = |_| {
            let (over, ask) = (Arc::clone(&over), ask.clone());
            let answered: Arc<AtomicUsize> = Arc::clone(&answered);
            thread::spawn(move || {
                let mut lost = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    match ask() {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => lost.push(error),
                    }
                }
                lost
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        let load = Self { over, answered, clients };
        load.goes_on();
        load
    }

    /// Waits until some more requests were answered.
    pub fn goes_on(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + 20;
        wait_until("answers", || self.answered.load(Ordering::Relaxed) >= enough);
    }

    /// Ends it: how many were answered. None was lost.
    pub fn end(self) -> usize {
        self.end_but_for(0)
    }

    /// As [`Load::end`], but for as many at most as were with a worker that was killed.
    pub fn end_but_for(self, most: usize) -> usize {
        self.goes_on();
        self.over.store(true, Ordering::Relaxed);
        let lost: Vec<io::Error> =
            self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        let answered = self.answered.load(Ordering::Relaxed);
        assert!(lost.len() <= most, "{} of {answered} were lost: {:?}", lost.len(), lost.first());
        answered
    }
}
