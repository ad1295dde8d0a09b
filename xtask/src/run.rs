//! `cargo xtask run`: builds balancer and becomes `balancer run`, as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{command, ebpf, workspace::Workspace};

/// Build balancer and start `balancer run` with these arguments, through sudo if need be
#[derive(Args)]
#[command(disable_help_flag = true)]
#[command(after_help = "Examples:
  cargo xtask run
  cargo xtask run --help
  cargo xtask run --policy round-robin")]
pub struct Options {
    /// Arguments of `balancer run`, `--help` among them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb; returns only if it could not.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    become_balancer(workspace, "run", &options.args)
}

/// Builds balancer and becomes one of its verbs, as root; returns only if it could not.
pub fn become_balancer(workspace: &Workspace, verb: &str, args: &[OsString]) -> Result<()> {
    ebpf::ensure(workspace)?;
    let mut build = workspace.cargo();
    let balancer =
        command::build_binary(build.args(["build", "--release", "-p", "balancer"]), "balancer")?;

    let mut run = command::root(&balancer);
    run.arg(verb).args(command::as_typed(args));
    if !command::is_root() {
        command::announce(&run);
    }
    // In place of this process, so that signals and the exit status are balancer's.
    Err(run.exec()).with_context(|| {
        format!("could not start {}; as root it runs without sudo", balancer.display())
    })
}
