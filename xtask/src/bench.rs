//! `cargo xtask bench`: what one choice costs, measured in the kernel.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::{command, ebpf, workspace::Workspace};

/// Measure the policies, through sudo if need be
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench round-robin")]
pub struct Options {
    /// Arguments of the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs the verb.
pub fn bench(workspace: &Workspace, options: &Options) -> Result<()> {
    ebpf::ensure(workspace)?;
    command::run(
        workspace
            .cargo()
            .args(["bench", "-p", "balancer", "--bench", "selection"])
            .args(command::as_root())
            .arg("--")
            .args(&options.args),
    )
}
