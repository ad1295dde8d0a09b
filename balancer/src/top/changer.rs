//! Changes a group in a thread of its own, because a change may wait for the group's lock and `top` goes on
//! drawing meanwhile. What the change says, warnings included, comes through a channel.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread,
};

use anyhow::Result;
use balancer_steering::{privilege, steering::Store};
use tracing_subscriber::{Layer as _, filter::LevelFilter, fmt, layer::SubscriberExt as _};

use super::dialogue::{Change, Operation};
use crate::{error::sentence, operations};

/// Does one change at a time.
pub struct Changer {
    store: Store,
    running: Option<Receiver<String>>,
    said: Vec<String>,
}

impl Changer {
    /// For the groups of a store.
    pub fn new(store: Store) -> Self {
        Self { store, running: None, said: Vec::new() }
    }

    /// Begins a change. The caller begins no other before this one is answered.
    pub fn start(&mut self, change: Change) {
        let (say, said) = channel();
        self.running = Some(said);
        let store = self.store.clone();
        thread::spawn(move || carry_out(&store, &change, &say));
    }

    /// What the change has said, once it has ended.
    pub fn answer(&mut self) -> Option<String> {
        loop {
            match self.running.as_ref()?.try_recv() {
                Ok(line) => self.said.push(line),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => return self.ended(),
            }
        }
    }

    /// Waits for the end of a change, so that none is cut short with the process.
    pub fn finish(mut self) -> Option<String> {
        self.said.extend(self.running.as_ref()?);
        self.ended()
    }

    fn ended(&mut self) -> Option<String> {
        self.running = None;
        Some(std::mem::take(&mut self.said).join("\n"))
    }
}

/// Sends one line for each message; nobody receives them any more if `top` has ended.
fn carry_out(store: &Store, change: &Change, say: &Sender<String>) {
    let warnings = {
        let say = say.clone();
        let layer = fmt::layer().without_time().with_target(false).with_ansi(false);
        layer.with_writer(move || Warnings(say.clone())).with_filter(LevelFilter::WARN)
    };
    let subscriber = tracing_subscriber::registry().with(warnings);
    let result = tracing::subscriber::with_default(subscriber, || {
        perform(store, change, |line| Ok(say.send(line)?))
    });
    if let Err(error) = result {
        let _ = say.send(sentence(&error));
    }
}

fn perform(store: &Store, change: &Change, say: impl FnMut(String) -> Result<()>) -> Result<()> {
    privilege::require()?;
    let scope = &mut operations::open(store, Some(&change.group), None)?;
    match &change.operation {
        Operation::Policy { policy, .. } => {
            operations::set_policy(scope, *policy, |options| options, say)
        }
        Operation::Weight { after, .. } => operations::set_weights(scope, &[*after], say),
        Operation::Drain(who) => operations::drain(scope, &[*who], say),
        Operation::Resume(who) => operations::resume(scope, &[*who], say),
    }
}

/// Where the warnings of a change go: on standard error they would be written across the screen.
struct Warnings(Sender<String>);

impl io::Write for Warnings {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(text).trim().to_owned();
        let _ = self.0.send(line);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
