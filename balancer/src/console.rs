//! What an agent shows: a live view in a terminal, plain lines elsewhere, nothing when quiet; and how log
//! lines are written.

use std::{
    io::{self, IsTerminal as _, Write},
    time::{Duration, Instant},
};

use balancer_steering::{escape, snapshot::Snapshot};
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
    /// Before each line.
    prefix: String,
    started: Instant,
    last: Option<(Instant, Snapshot)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Plain,
    Live,
    /// Only lines: several groups have the terminal.
    Part,
}

impl Console {
    /// Chooses by what standard output is.
    pub fn start(quiet: bool, members: usize) -> Self {
        let mode = if quiet {
            Mode::Quiet
        } else if io::stdout().is_terminal() {
            output::view(members);
            Mode::Live
        } else {
            Mode::Plain
        };
        Self::of(mode, String::new())
    }

    /// Of one group of several that one process watches: what happens there, and how the groups are is what
    /// `status` and `top` show.
    pub fn part(quiet: bool, group: &str) -> Self {
        Self::of(if quiet { Mode::Quiet } else { Mode::Part }, format!("{group}: "))
    }

    fn of(mode: Mode, prefix: String) -> Self {
        Self { mode, prefix, started: Instant::now(), last: None }
    }

    /// How often [`Console::update`] is worth calling.
    pub fn interval(&self) -> Duration {
        match self.mode {
            Mode::Live => Duration::from_millis(250),
            Mode::Plain | Mode::Part | Mode::Quiet => Duration::from_secs(1),
        }
    }

    /// Prints a line.
    pub fn line(&self, line: &str) {
        if self.mode != Mode::Quiet {
            output::print(Stream::Out, format!("{}{line}\n", self.prefix));
        }
    }

    /// Prints a line of a worker's standard error, quiet or not.
    pub fn complain(&self, line: &str) {
        output::print(Stream::Err, format!("{line}\n"));
    }

    /// Shows how the group is.
    pub fn update(&mut self, snapshot: Snapshot) {
        let now = Instant::now();
        let rates = match &self.last {
            None => Rates { total: 0.0, members: vec![0.0; snapshot.members.len()] },
            Some((then, earlier)) => Rates::between(earlier, &snapshot, now - *then),
        };
        self.last = Some((now, snapshot.clone()));
        let elapsed = now - self.started;
        match self.mode {
            Mode::Quiet | Mode::Part => {}
            Mode::Plain => self.line(&line::progress(&snapshot, &rates, elapsed)),
            Mode::Live => output::show(Shown { snapshot, rates, elapsed }),
        }
    }

    /// Takes the live view away; what is printed from now on is plain.
    pub fn finish(&mut self) {
        if self.mode == Mode::Live {
            output::end_view();
            self.mode = Mode::Plain;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}
