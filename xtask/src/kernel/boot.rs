//! A kernel under qemu: booted, watched, and what became of its tests.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{Series, image::Image};
use crate::{command, tally::Tally};

/// Emulated, so that it runs where there is no KVM, and wherever it runs in the same way.
const EMULATOR: &str = "qemu-system-x86_64";

/// The emulated CPUs run in turn, in one thread. With a thread for each, a CPU can run into a breakpoint
/// that the kernel put where it patches code, and reach the handler after the kernel removed it: the
/// kernel panics ("Oops: int3").
const ACCELERATOR: &str = "tcg,thread=single";

/// A panic ends it at once. Off is what tests nothing and slows emulation down: code at random places
/// is translated anew for every process.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 mitigations=off no5lvl nokaslr norandmaps";

/// How long a kernel may take; several times what it does.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// How many of the kernel's last lines are shown when something went wrong.
const LAST_LINES: usize = 40;

/// What became of the tests on a kernel.
pub struct Outcome {
    release: String,
    tally: Tally,
    took: Duration,
    /// Why they count as failed, if so.
    trouble: Option<String>,
}

impl Outcome {
    /// Whether all that ran passed.
    pub fn is_good(&self) -> bool {
        self.trouble.is_none()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}: {} in {:.0} s", self.release, self.tally, self.took.as_secs_f64())?;
        self.trouble.iter().try_for_each(|trouble| write!(f, "; {trouble}"))
    }
}

/// Boots a kernel into the initramfs, and shows what its tests print.
pub fn run(cache: &Path, image: &Image, cpus: u8, initramfs: &Path) -> Result<Outcome> {
    let console = cache.join(format!("{}.console", image.release));
    let mut qemu = Command::new(EMULATOR);
    qemu.args(["-accel", ACCELERATOR, "-cpu", "max", "-smp", &cpus.to_string(), "-m", "2G"]);
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(initramfs);
    qemu.args(["-append", COMMAND_LINE]);
    qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    command::announce(&qemu);

    let start = Instant::now();
    let mut machine = Machine::start(&mut qemu)?;
    let mut report = Report::default();
    let silence = machine.watch(|line| report.add(image.series, line));
    let took = start.elapsed();
    drop(machine);

    let trouble = report.trouble(silence);
    if trouble.is_some() {
        let said = fs::read(&console).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("\nthe kernel's last words, of {}:", console.display());
        lines.iter().rev().take(LAST_LINES).rev().for_each(|line| eprintln!("  {line}"));
    }
    let release = report.release.unwrap_or_else(|| image.release.clone());
    Ok(Outcome { release, tally: report.tally, took, trouble })
}

/// What the tests' serial port said.
#[derive(Default)]
struct Report {
    /// The kernel's own word for what it is, once it runs the suite.
    release: Option<String>,
    tally: Tally,
    /// Whether a test binary failed, once all have ended.
    failed: Option<bool>,
}

impl Report {
    fn add(&mut self, series: Series, line: &str) {
        if let Some(release) = line.strip_prefix("@kernel ") {
            self.release = Some(release.to_owned());
        } else if let Some(failed) = line.strip_prefix("@ended ") {
            self.failed = Some(failed != "0");
        } else {
            println!("{series} | {line}");
            self.tally.add_line(line);
        }
    }

    /// Why the tests count as failed, if so; `ran_out` is whether there was an end to patience.
    fn trouble(&self, ran_out: bool) -> Option<String> {
        let trouble = match (self.failed, &self.release) {
            (Some(false), _) if self.tally.is_empty() => "no test has that name",
            (Some(false), _) => return None,
            (Some(true), _) => "tests failed",
            (None, _) if ran_out => {
                return Some(format!("did not end within {} minutes", PATIENCE.as_secs() / 60));
            }
            (None, Some(_)) => "the machine ended before the tests did",
            (None, None) => "it did not boot",
        };
        Some(trouble.to_owned())
    }
}

/// A running qemu; it ends when this is dropped, and when this process ends, however it does.
struct Machine(Child);

impl Machine {
    fn start(qemu: &mut Command) -> Result<Self> {
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: one system call, nothing allocated, between fork and exec.
        unsafe {
            qemu.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let started = qemu.spawn().with_context(|| {
            format!("could not start {EMULATOR}; Debian has it in qemu-system-x86")
        });
        Ok(Self(started?))
    }

    /// Hands on each line until it ends; returns whether patience ended first.
    fn watch(&mut self, mut each: impl FnMut(&str)) -> bool {
        let (sender, lines) = channel();
        let Some(stdout) = self.0.stdout.take() else { return false };
        thread::spawn(move || {
            let lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
            lines.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                // A serial line ends its lines in its own way.
                Ok(line) => each(String::from_utf8_lossy(&line).trim_end_matches('\r')),
                Err(error) => return error == RecvTimeoutError::Timeout,
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
