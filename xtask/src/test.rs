//! `cargo xtask test`: the whole suite in one command; what needs root gets it.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    command, ebpf,
    kernel::{self, Series},
    tally::Tally,
    workspace::Workspace,
};

/// Run all tests: unit, property and documentation tests, then the integration tests as root
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test drain                   of the integration tests, those named so
  cargo xtask test -- --nocapture
  cargo xtask test --kernel 6.1 --kernel 6.12
  cargo xtask test --kernel 6.1 policies   of tests/policies.rs, those that run there
  BALANCER_OBJECT=/tmp/new.o cargo xtask test")]
pub struct Options {
    /// Instead run the integration tests on Debian's newest kernel of this series, under qemu; the
    /// arguments are names of files of tests, of tests, or options of test binaries
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<Series>,

    /// Arguments of the `cargo test` that runs the integration tests
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb.
pub fn test(workspace: &Workspace, options: &Options) -> Result<()> {
    ebpf::ensure(workspace)?;
    if !options.kernels.is_empty() {
        return kernel::test(workspace, &options.kernels, &options.args);
    }

    let mut unit = workspace.cargo();
    unit.args(["test", "--workspace", "--exclude", "balancer-tests"]);
    let mut tally = Tally::default();
    run_tests(&mut unit, &mut tally)?;

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
    run_tests(&mut integration, &mut tally)?;

    println!("\n{tally}");
    Ok(())
}

/// Runs a `cargo test`, hands on what it prints, and adds up the results of its many binaries.
fn run_tests(command: &mut Command, tally: &mut Tally) -> Result<()> {
    command::announce(command);
    let mut child = command.stdout(Stdio::piped()).spawn().context("could not start cargo")?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cargo test printed what is no text")?;
            println!("{line}");
            tally.add_line(&line);
        }
    }
    if !child.wait().context("could not wait for cargo")?.success() {
        bail!("{tally}; see above");
    }
    Ok(())
}
