//! `cargo xtask test`: the whole suite in one command; what needs root gets it.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{command, ebpf, workspace::Workspace};

/// Run all tests: unit, property and documentation tests, then the integration tests as root
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test drain                   of the integration tests, those named so
  cargo xtask test -- --nocapture
  BALANCER_OBJECT=/tmp/new.o cargo xtask test")]
pub struct Options {
    /// Arguments of the `cargo test` that runs the integration tests
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb.
pub fn test(workspace: &Workspace, options: &Options) -> Result<()> {
    ebpf::ensure(workspace)?;

    let mut unit = workspace.cargo();
    unit.args(["test", "--workspace", "--exclude", "balancer-tests"]);
    let mut tally = run_tests(&mut unit)?;

    let mut build = workspace.cargo();
    build.args(["build", "-p", "balancer", "--bins", "--examples"]);
    command::announce(&build);
    let balancer = command::build_binary(&mut build, "balancer")?;

    let mut integration = workspace.cargo();
    integration.args(["test", "-p", "balancer-tests"]).args(command::as_root());
    integration.args(command::as_typed(&options.args)).env("BALANCER_BIN", balancer);
    if let Some(object) = ebpf::overridden()? {
        integration.env(ebpf::OVERRIDE, object);
    }
    tally.add(&run_tests(&mut integration)?);

    println!("\n{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.ignored);
    Ok(())
}

/// Runs a `cargo test`, hands on what it prints, and adds up the results of its many binaries.
fn run_tests(command: &mut Command) -> Result<Tally> {
    command::announce(command);
    let mut child = command.stdout(Stdio::piped()).spawn().context("could not start cargo")?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cargo test printed what is no text")?;
            println!("{line}");
            tally.add(&Tally::of_line(&line).unwrap_or_default());
        }
    }
    if !child.wait().context("could not wait for cargo")?.success() {
        bail!("{} tests passed, {} failed; see above", tally.passed, tally.failed);
    }
    Ok(tally)
}

/// How many tests ended how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Tally {
    /// From the line with which a test binary ends.
    fn of_line(line: &str) -> Option<Self> {
        let mut tally = Self::default();
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        for count in counts.split("; ") {
            match count.split_once(' ')? {
                (number, "passed") => tally.passed = number.parse().ok()?,
                (number, "failed") => tally.failed = number.parse().ok()?,
                (number, "ignored") => tally.ignored = number.parse().ok()?,
                _ => {}
            }
        }
        Some(tally)
    }

    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_test_binary_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; \
                    0 filtered out; finished in 0.01s";
        let expected = Tally { passed: 12, failed: 3, ignored: 1 };
        assert_eq!(Tally::of_line(line), Some(expected));
    }

    #[test]
    fn other_lines_are_not() {
        assert_eq!(Tally::of_line("test a_test ... ok"), None);
        assert_eq!(Tally::of_line("running 12 tests"), None);
    }
}
