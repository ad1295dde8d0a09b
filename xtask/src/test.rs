//! `cargo xtask test`: the whole suite in one command; what needs root gets it.

use std::{env, ffi::OsString, fs};

use anyhow::{Context as _, Result};
use clap::{Args, value_parser};

use crate::{
    command, ebpf,
    kernel::{self, Series},
    workspace::Workspace,
};

/// Installs the runner of the tests.
const INSTALL: &str = "cargo install --locked cargo-nextest";

/// Run all tests: unit, property, integration and documentation tests, as root
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test drain                   those with this in their name
  cargo xtask test -- --no-capture
  cargo xtask test --kernel 6.1 --kernel 6.12
  cargo xtask test --kernel 6.1 policies::
  cargo xtask test --kernel 6.12 --cpus 4 load
  BALANCER_OBJECT=/tmp/new.o cargo xtask test")]
pub struct Options {
    /// Instead run the integration tests on Debian's newest kernel of this series, under qemu; the
    /// arguments are parts of names of tests, or options of the test binary
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<Series>,

    /// CPUs of each emulated machine. They run in turn on one CPU of this machine, so several are no
    /// faster than one. With more than one and without arguments, only the tests run whose result
    /// can depend on the number of CPUs
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "kernels",
        value_parser = value_parser!(u8).range(1..=16))]
    cpus: u8,

    /// Arguments of `cargo nextest run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb.
pub fn test(workspace: &Workspace, options: &Options) -> Result<()> {
    ebpf::ensure(workspace)?;
    if !options.kernels.is_empty() {
        return kernel::test(workspace, &options.kernels, options.cpus, &options.args);
    }
    let mut build = workspace.cargo();
    build.args(["build", "-p", "balancer", "-p", "balancer-steering", "--bins", "--examples"]);
    command::announce(&build);
    let balancer = command::build_binary(&mut build, "balancer")?;

    let skipped = workspace.target.join("skipped-tests");
    let _ = fs::remove_file(&skipped);
    let mut nextest = workspace.cargo();
    nextest.args(["nextest", "run", "--workspace"]).args(command::as_root());
    if env::var_os("CI").is_some() {
        nextest.arg("--profile=ci");
    }
    nextest.args(command::as_typed(&options.args));
    nextest.env("BALANCER_BIN", balancer).env("BALANCER_SKIPPED", &skipped);
    if let Some(object) = ebpf::overridden()? {
        nextest.env(ebpf::OVERRIDE, object);
    }
    command::run(&mut nextest).with_context(|| format!("if cargo has no nextest: {INSTALL}"))?;
    if options.args.is_empty() {
        command::run(workspace.cargo().args(["test", "--workspace", "--doc"]))?;
    }
    if let Ok(lines) = fs::read_to_string(&skipped) {
        println!("\n{lines}{} tests were skipped", lines.lines().count());
    }
    Ok(())
}
