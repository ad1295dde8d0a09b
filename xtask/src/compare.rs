//! `cargo xtask compare`: builds balancer and becomes `balancer compare`, as root.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::{run, workspace::Workspace};

/// Build balancer and start `balancer compare` with these arguments, through sudo if need be
#[derive(Args)]
#[command(disable_help_flag = true)]
#[command(after_help = "Examples:
  cargo xtask compare
  cargo xtask compare --help
  cargo xtask compare --quick --report report.html")]
pub struct Options {
    /// Arguments of `balancer compare`, `--help` among them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb; returns only if it could not.
pub fn compare(workspace: &Workspace, options: &Options) -> Result<()> {
    run::become_balancer(workspace, "compare", &options.args)
}
