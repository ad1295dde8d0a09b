//! What an agent shows: a live view in a terminal, plain lines elsewhere, nothing when quiet; and how log
//! lines are written.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write},
    rc::Rc,
    time::{Duration, Instant},
};

use balancer_steering::{
    escape, service::ServiceName, service_snapshot::as_one_group, snapshot::Snapshot,
};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    cli::LogLevel,
    output::{self, Shown, Stream},
    rates::Rates,
    render::line,
};

/// Sends our own log lines, and those of the programs, to standard error.
pub fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // Of libraries only what is wrong: at debug, theirs would bury ours.
    let ours = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("balancer", level)
        .with_target("balancer_ebpf", level);
    let lines = fmt::layer()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| LogWriter)
        .with_filter(ours);
    tracing_subscriber::registry().with(lines).init();
}

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let lines = String::from_utf8_lossy(text);
        if !output::print(Stream::Err, lines.clone().into_owned()) {
            io::stderr().write_all(escape::shown(&lines, &io::stderr()).as_bytes())?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an agent shows. It waits for nobody who reads it.
pub struct Console {
    mode: Mode,
    started: Instant,
    last: Option<(Instant, Snapshot)>,
    /// If the group is one of a service.
    part: Option<Part>,
}

/// One group of several that have a console together. The last, which looks when the others just have, shows how
/// all are.
struct Part {
    service: ServiceName,
    group: String,
    index: usize,
    all: Rc<RefCell<BTreeMap<usize, Option<Snapshot>>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Plain,
    Live,
}

impl Mode {
    /// By what standard output is.
    fn start(quiet: bool, members: usize) -> Self {
        if quiet {
            Self::Quiet
        } else if io::stdout().is_terminal() {
            output::view(members);
            Self::Live
        } else {
            Self::Plain
        }
    }
}

impl Console {
    /// Chooses by what standard output is.
    pub fn start(quiet: bool, members: usize) -> Self {
        Self::of(Mode::start(quiet, members), None)
    }

    /// For the groups of a service, in this order: each says what happens there, and how they are is shown of all
    /// together.
    pub fn parts(
        quiet: bool,
        workers: usize,
        service: ServiceName,
        groups: &[String],
    ) -> Vec<Self> {
        let mode = Mode::start(quiet, workers);
        let all: BTreeMap<_, _> = (0..groups.len()).map(|index| (index, None)).collect();
        let all = Rc::new(RefCell::new(all));
        let part = |(index, group): (usize, &String)| {
            let (group, all) = (group.clone(), Rc::clone(&all));
            Self::of(mode, Some(Part { service, group, index, all }))
        };
        groups.iter().enumerate().map(part).collect()
    }

    fn of(mode: Mode, part: Option<Part>) -> Self {
        Self { mode, started: Instant::now(), last: None, part }
    }

    /// How often [`Console::update`] is worth calling.
    pub fn interval(&self) -> Duration {
        match self.mode {
            Mode::Live => Duration::from_millis(250),
            Mode::Plain | Mode::Quiet => Duration::from_secs(1),
        }
    }

    /// Prints a line.
    pub fn line(&self, line: &str) {
        if self.mode != Mode::Quiet {
            let group = self.part.as_ref().map(|part| format!("{}: ", part.group));
            output::print(Stream::Out, format!("{}{line}\n", group.unwrap_or_default()));
        }
    }

    /// Prints a line of a worker's standard error, quiet or not.
    pub fn complain(&self, line: &str) {
        output::print(Stream::Err, format!("{line}\n"));
    }

    /// Shows how the group is, or how all groups of the service are.
    pub fn update(&mut self, snapshot: Snapshot) {
        let snapshot = match &self.part {
            None => Some(snapshot),
            Some(part) => part.whole(snapshot),
        };
        let Some(snapshot) = snapshot else { return };
        let now = Instant::now();
        let rates = match &self.last {
            None => Rates { total: 0.0, members: vec![0.0; snapshot.members.len()] },
            Some((then, earlier)) => Rates::between(earlier, &snapshot, now - *then),
        };
        self.last = Some((now, snapshot.clone()));
        let elapsed = now - self.started;
        match self.mode {
            Mode::Quiet => {}
            Mode::Plain => {
                let line = line::progress(&snapshot, &rates, elapsed);
                output::print(Stream::Out, format!("{line}\n"));
            }
            Mode::Live => output::show(Shown { snapshot, rates, elapsed }),
        }
    }

    /// Takes the live view away; what is printed from now on is plain.
    pub fn finish(&mut self) {
        let is_last = self.part.as_ref().is_none_or(Part::leave);
        if self.mode == Mode::Live {
            self.mode = Mode::Plain;
            if is_last {
                output::end_view();
            }
        }
    }
}

impl Part {
    /// How all groups are, as one; `None` if another of them shows it.
    fn whole(&self, snapshot: Snapshot) -> Option<Snapshot> {
        let mut all = self.all.borrow_mut();
        all.insert(self.index, Some(snapshot));
        let is_last = all.keys().next_back() == Some(&self.index);
        let groups: Vec<&Snapshot> = all.values().flatten().collect();
        if is_last { as_one_group(self.service, &groups) } else { None }
    }

    /// Shows nothing of this group any more; whether it was the last.
    fn leave(&self) -> bool {
        self.all.borrow_mut().remove(&self.index);
        Rc::strong_count(&self.all) == 1
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}
