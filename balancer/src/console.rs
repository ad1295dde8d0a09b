//! Where `run` writes: a live view in a terminal, plain lines elsewhere, nothing when quiet; and
//! where log lines go meanwhile.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    cli::LogLevel,
    render::{line, live::LiveView},
    snapshot::Snapshot,
    stats::Rates,
};

/// While set, log lines go there instead of to standard error, which a live view shares.
static DIVERTED: OnceLock<Mutex<Option<UnboundedSender<String>>>> = OnceLock::new();

fn diverted() -> std::sync::MutexGuard<'static, Option<UnboundedSender<String>>> {
    DIVERTED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

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
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| LogWriter)
        .with_filter(ours);
    tracing_subscriber::registry().with(lines).init();
}

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match &*diverted() {
            None => io::stderr().write_all(text)?,
            Some(sender) => {
                // The receiver lives as long as the diversion.
                let _ = sender.send(String::from_utf8_lossy(text).trim_end().to_owned());
            }
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The output of `run`. Nobody reading it is no reason to stop steering, so errors are dropped.
pub struct Console {
    mode: Mode,
    started: Instant,
    last: Option<(Instant, Snapshot)>,
}

enum Mode {
    Quiet,
    Plain,
    Live { view: Box<LiveView>, logs: UnboundedReceiver<String> },
}

impl Console {
    /// Chooses by what standard output is.
    pub fn start(quiet: bool, members: usize) -> Self {
        let mode = if quiet {
            Mode::Quiet
        } else if io::stdout().is_terminal() {
            // A terminal that does not answer gets plain lines.
            LiveView::start(members).map_or(Mode::Plain, |view| {
                let (sender, logs) = unbounded_channel();
                *diverted() = Some(sender);
                Mode::Live { view: Box::new(view), logs }
            })
        } else {
            Mode::Plain
        };
        Self { mode, started: Instant::now(), last: None }
    }

    /// How often [`Console::update`] is worth calling.
    pub fn interval(&self) -> Duration {
        match self.mode {
            Mode::Live { .. } => Duration::from_millis(250),
            Mode::Plain | Mode::Quiet => Duration::from_secs(1),
        }
    }

    /// Prints a line.
    pub fn line(&mut self, line: &str) {
        let _ = match &mut self.mode {
            Mode::Quiet => Ok(()),
            Mode::Plain => writeln!(io::stdout(), "{line}"),
            Mode::Live { view, .. } => view.line(line),
        };
    }

    /// Prints a line of a worker's standard error, quiet or not.
    pub fn complain(&mut self, line: &str) {
        let _ = match &mut self.mode {
            Mode::Quiet | Mode::Plain => writeln!(io::stderr(), "{line}"),
            Mode::Live { view, .. } => view.line(line),
        };
    }

    /// Shows how the group is.
    pub fn update(&mut self, snapshot: Snapshot) {
        let now = Instant::now();
        let rates = match &self.last {
            None => Rates { total: 0.0, members: vec![0.0; snapshot.members.len()] },
            Some((then, earlier)) => Rates::between(earlier, &snapshot, now - *then),
        };
        let _ = match &mut self.mode {
            Mode::Quiet => Ok(()),
            Mode::Plain => {
                let elapsed = now - self.started;
                writeln!(io::stdout(), "{}", line::progress(&snapshot, &rates, elapsed))
            }
            Mode::Live { view, logs } => {
                while let Ok(line) = logs.try_recv() {
                    let _ = view.line(&line);
                }
                view.update(&snapshot, &rates)
            }
        };
        self.last = Some((now, snapshot));
    }

    /// Takes the live view away; what is printed from now on is plain.
    pub fn finish(&mut self) {
        if let Mode::Live { view, logs } = &mut self.mode {
            *diverted() = None;
            while let Ok(line) = logs.try_recv() {
                let _ = view.line(&line);
            }
            let _ = view.finish();
            self.mode = Mode::Plain;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}
