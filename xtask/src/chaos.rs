//! `cargo xtask chaos` and `soak`: build balancer and the test that ill-treats it, and run that as
//! root.

use std::ffi::{OsStr, OsString};

use anyhow::Result;
use clap::Args;

use crate::{command, ebpf, workspace::Workspace};

/// Kill, stop and replace workers and switch policies under load, and account for every request
#[derive(Args)]
#[command(disable_help_flag = true)]
#[command(after_help = "Examples:
  cargo xtask chaos --minutes 1
  cargo xtask chaos --help
  cargo xtask chaos --release --decks 10")]
pub struct Options {
    /// Arguments of the test, `--help` among them; `--release` builds what users run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Do the same as `chaos` for 10 minutes, and watch the memory and descriptors of balancer itself
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask soak
  cargo xtask soak --minutes 60")]
pub struct SoakOptions {
    /// How long
    #[arg(long, value_name = "MINUTES", default_value = "10")]
    minutes: String,

    /// What the faults are drawn from
    #[arg(long, value_name = "N", default_value = "1")]
    seed: String,
}

/// Runs the verb.
pub fn chaos(workspace: &Workspace, options: &Options) -> Result<()> {
    let (release, rest): (Vec<_>, Vec<_>) =
        options.args.iter().cloned().partition(|arg| arg == "--release");
    run(workspace, !release.is_empty(), &command::as_typed(&rest))
}

/// Runs the verb.
pub fn soak(workspace: &Workspace, options: &SoakOptions) -> Result<()> {
    let SoakOptions { minutes, seed } = options;
    run(workspace, true, &["--soak", "--minutes", minutes, "--seed", seed])
}

fn run(workspace: &Workspace, release: bool, args: &[impl AsRef<OsStr>]) -> Result<()> {
    ebpf::ensure(workspace)?;
    let build = |package: &str, binary: &str| {
        let mut build = workspace.cargo();
        build.args(["build", "-p", package, "--bin", binary]);
        build.args(release.then_some("--release"));
        command::announce(&build);
        command::build_binary(&mut build, binary)
    };
    let balancer = build("balancer", "balancer")?;
    let mut run = command::root(&build("balancer-tests", "chaos")?);
    command::run(run.args(args).env("BALANCER_BIN", balancer))
}
