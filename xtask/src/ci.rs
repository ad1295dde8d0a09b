//! `cargo xtask ci`: all checks, in the order in which they fail soonest.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    command, docs,
    ebpf::{self, compile, toolchain::Toolchain},
    workspace::Workspace,
};

/// `.ci/run` says which version; a developer's may be newer.
const INSTALL_DENY: &str = "cargo install --locked cargo-deny";

/// Run all checks, as CI does; stop at the first that fails
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask ci
  cargo xtask ci --only clippy")]
pub struct Options {
    /// Run only this check
    #[arg(long, value_name = "CHECK")]
    only: Option<Check>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// The code is formatted
    Fmt,
    /// Clippy has nothing to say about what runs in userspace
    Clippy,
    /// Clippy has nothing to say about the eBPF programs
    ClippyEbpf,
    /// The links of the documents point to something, and the library's documentation builds without
    /// warnings
    Docs,
    /// Licences, sources and known vulnerabilities of the dependencies
    Deny,
    /// The eBPF object in git was built from these sources
    Object,
    /// Hostile input breaks no parser; half a minute per target
    Fuzz,
    /// The whole test suite, on an object built just now
    Test,
    /// The tests that ask most of the kernel, on other kernels
    Kernels,
    /// The tests whose result can depend on several CPUs, on the same kernels; only if it is named, since four
    /// emulated CPUs take turns on one
    KernelsSmp,
    /// A minute of faults loses nothing without a cause
    Chaos,
}

/// The kernels of Debian 12 and 13.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// CPUs of these kernels in `kernels-smp`; more than most machines that build this have.
const SMP_CPUS: &str = "--cpus=4";

/// Runs the verb.
pub fn ci(workspace: &Workspace, options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut fresh = None;
    for check in Check::value_variants() {
        if options.only.map_or(check.is_long(), |only| only != *check) {
            continue;
        }
        let name = check.name();
        eprintln!("\n== {name}");
        let check_start = Instant::now();
        let result = check.run(workspace, &mut fresh);
        let took = seconds(check_start.elapsed());
        if let Err(error) = result {
            bail!(
                "{error:#}\n== {name}: FAILED after {took}; to run it alone: \
                 cargo xtask ci --only {name}"
            );
        }
        eprintln!("== {name}: passed in {took}");
    }
    eprintln!("\nall checks passed in {}", seconds(start.elapsed()));
    Ok(())
}

impl Check {
    /// Whether it takes too long to be run with the others.
    fn is_long(self) -> bool {
        self == Self::KernelsSmp
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self, workspace: &Workspace, fresh: &mut Option<PathBuf>) -> Result<()> {
        let mut cargo = workspace.cargo();
        match self {
            Self::Fmt => command::run(cargo.args(["fmt", "--all", "--check"])),
            Self::Clippy => command::run(cargo.args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-Dwarnings",
            ])),
            Self::ClippyEbpf => compile::lint(workspace, &Toolchain::find()?),
            Self::Docs => {
                docs::check(workspace)?;
                cargo.args(["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-Dwarnings");
                command::run(&mut cargo)
            }
            Self::Deny => deny(workspace),
            Self::Object => {
                *fresh = Some(ebpf::check(workspace)?);
                Ok(())
            }
            Self::Fuzz => command::run(cargo.args(["xtask", "fuzz", "--seconds=30"])),
            Self::Test | Self::Kernels | Self::KernelsSmp => {
                let object = fresh.take().map_or_else(|| ebpf::check(workspace), Ok)?;
                cargo.args(["xtask", "test"]).env(ebpf::OVERRIDE, fresh.insert(object));
                if self != Self::Test {
                    cargo.args(KERNELS.map(|series| format!("--kernel={series}")));
                }
                if self == Self::KernelsSmp {
                    cargo.arg(SMP_CPUS);
                }
                command::run(&mut cargo)
            }
            Self::Chaos => command::run(cargo.args([
                "xtask",
                "chaos",
                "--minutes=1",
                "--only=run,attach",
                "--reloads=1",
            ])),
        }
    }
}

fn deny(workspace: &Workspace) -> Result<()> {
    let deny = |arguments: &[&str]| {
        let mut cargo = workspace.cargo();
        // A server that accepts and then says nothing must not hold the checks up.
        cargo.env("GIT_HTTP_LOW_SPEED_LIMIT", "1000").env("GIT_HTTP_LOW_SPEED_TIME", "30");
        cargo.arg("deny").args(arguments);
        command::run(&mut cargo)
    };
    let probe = workspace.cargo().args(["deny", "--version"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        bail!("cargo-deny is not installed; install it: {INSTALL_DENY}");
    }
    deny(&["check", "--hide-inclusion-graph", "bans", "licenses", "sources"])?;
    if deny(&["fetch", "db"]).is_err() {
        eprintln!(
            "\n!! the database of advisories cannot be fetched: \
             known vulnerabilities were NOT checked !!\n"
        );
        return Ok(());
    }
    deny(&["check", "advisories"])
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
