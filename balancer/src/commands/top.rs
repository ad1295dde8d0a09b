//! `balancer top`: shows all groups live, in a terminal, where they can be changed too, or as JSON lines.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, IsTerminal as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use balancer_steering::steering::Store;
use ratatui::{DefaultTerminal, crossterm::event};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::{GroupArgs, TopArgs},
    commands::{open_scope, say_line},
    error::UsageError,
    render::say_json,
    top::{
        changer::Changer,
        dialogue::Dialogue,
        figures::Group,
        reading::{GroupReading, Reader},
        screen::{Screen, Then},
        view,
    },
};

/// The shortest interval.
const LEAST: Duration = Duration::from_millis(100);

/// How often is looked whether a signal has come.
const PATIENCE: Duration = Duration::from_millis(100);

/// Shows them until it is told to end.
pub fn top(args: &TopArgs, store: &Store) -> Result<()> {
    if args.interval.0 < LEAST {
        return Err(UsageError::new("--interval is at least 100ms").into());
    }
    let in_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !args.json && !in_terminal {
        return Err(UsageError::new(
            "standard input or output is no terminal; `balancer top --json` prints a line a group and interval",
        )
        .into());
    }
    if args.group.is_some() || args.service.is_some() {
        open_scope(store, &GroupArgs { group: args.group.clone(), service: args.service })?;
    }
    let ended = ended()?;
    let mut watched = Watched {
        reader: Reader::new(store.clone(), args.group.clone(), args.service),
        earlier: HashMap::new(),
    };
    if args.json {
        return lines(args, &mut watched, &ended);
    }
    let mut changer = Changer::new(store.clone());
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let shown = show(args, &mut watched, &mut changer, &mut terminal, &ended);
    ratatui::restore();
    let answer = changer.finish();
    match (shown?, answer) {
        (End::Asked, Some(answer)) => say_line(answer),
        _ => Ok(()),
    }
}

/// How `top` ends.
enum End {
    /// By a key, or after `--count` intervals.
    Asked,
    /// By a signal, or because the terminal is gone.
    Stopped,
}

/// The groups, and how they were one interval ago.
struct Watched {
    reader: Reader,
    earlier: HashMap<String, GroupReading>,
}

impl Watched {
    /// What came since the last time.
    fn next(&mut self) -> Result<Vec<Group>> {
        let readings = self.reader.read()?;
        let between =
            |now: &GroupReading| Group::between(self.earlier.get(&now.snapshot.group.name), now);
        let groups = readings.iter().map(between).collect();
        let named = |reading: GroupReading| (reading.snapshot.group.name.clone(), reading);
        self.earlier = readings.into_iter().map(named).collect();
        Ok(groups)
    }
}

/// A line a group and interval.
fn lines(args: &TopArgs, watched: &mut Watched, ended: &AtomicBool) -> Result<()> {
    watched.next()?;
    if let Some(why) = &watched.reader.unobserved {
        tracing::warn!("{why}");
    }
    let mut unread = BTreeMap::new();
    warn_of_new(&mut unread, &watched.reader.unread);
    let mut due = Instant::now();
    let mut count = 0;
    while args.count.is_none_or(|wanted| count < wanted) {
        due += args.interval.0;
        while let left = due.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            if ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            thread::sleep(left.min(PATIENCE));
        }
        watched.next()?.iter().try_for_each(say_json)?;
        warn_of_new(&mut unread, &watched.reader.unread);
        count += 1;
    }
    Ok(())
}

/// Warns of groups that cannot be read, once for each.
fn warn_of_new(before: &mut BTreeMap<String, String>, now: &BTreeMap<String, String>) {
    for (name, reason) in now.iter().filter(|(name, _)| !before.contains_key(*name)) {
        tracing::warn!("{}", unread_line(name, reason));
    }
    before.clone_from(now);
}

fn unread_line(name: &str, reason: &str) -> String {
    format!("the group {name} is not shown, because it cannot be read: {reason}")
}

fn show(
    args: &TopArgs,
    watched: &mut Watched,
    changer: &mut Changer,
    terminal: &mut DefaultTerminal,
    ended: &AtomicBool,
) -> Result<End> {
    let mut screen = Screen::default();
    let mut due = Instant::now();
    let mut count = 0;
    while !ended.load(Ordering::Relaxed) {
        if Instant::now() >= due {
            if args.count.is_some_and(|wanted| count > wanted) {
                return Ok(End::Asked);
            }
            screen.groups = watched.next()?;
            let Reader { unobserved, unread, .. } = &watched.reader;
            let unread = unread.iter().map(|(name, reason)| unread_line(name, reason));
            screen.notes = unobserved.iter().cloned().chain(unread).collect();
            // One that took too long is not made up for.
            due = Instant::now() + args.interval.0;
            count += 1;
        }
        if let Some(answer) = changer.answer() {
            screen.dialogue = Dialogue::Answer(answer);
        }
        terminal.draw(|frame| view::draw(frame, &screen)).context("cannot draw")?;
        let left = due.saturating_duration_since(Instant::now());
        match wait_for_keys(left.min(PATIENCE))? {
            Input::Gone => break,
            Input::None => {}
            Input::Keys => {
                while event::poll(Duration::ZERO).context("cannot read keys")? {
                    let event::Event::Key(key) = event::read().context("cannot read keys")? else {
                        continue;
                    };
                    match screen.press(key) {
                        Then::Draw => {}
                        Then::Change(change) => changer.start(change),
                        Then::Quit => return Ok(End::Asked),
                    }
                }
            }
        }
    }
    Ok(End::Stopped)
}

/// What comes from the terminal.
enum Input {
    None,
    Keys,
    /// Nobody is at its other end any more. crossterm would read there without end.
    Gone,
}

fn wait_for_keys(timeout: Duration) -> Result<Input> {
    let stdin = io::stdin();
    let mut terminal = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout).context("too long an interval")?;
    match poll(&mut terminal, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error).context("cannot read keys"),
    }
    let ready = terminal[0].revents();
    Ok(match ready {
        _ if ready.intersects(PollFlags::HUP | PollFlags::ERR) => Input::Gone,
        _ if ready.contains(PollFlags::IN) => Input::Keys,
        _ => Input::None,
    })
}

/// Becomes true with a signal that would end the process, and leave the terminal as it is.
fn ended() -> Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    let _entered = runtime.enter();
    let open = |kind| signal(kind).context("cannot wait for signals");
    let (mut interrupt, mut terminate, mut hangup) = (
        open(SignalKind::interrupt())?,
        open(SignalKind::terminate())?,
        open(SignalKind::hangup())?,
    );
    drop(_entered);
    let told = Arc::clone(&ended);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        told.store(true, Ordering::Relaxed);
    });
    Ok(ended)
}
