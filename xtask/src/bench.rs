//! `cargo xtask bench`: what one choice costs, measured in the kernel; or what others would cost.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::{command, ebpf, workspace::Workspace};

/// Measure the policies, or with `peers` HAProxy, nginx and nftables too; through sudo if need be
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench round-robin
  cargo xtask bench -- --help
  cargo xtask bench peers
  cargo xtask bench peers --help")]
pub struct Options {
    /// Arguments of the benchmark; after `peers`, of that one
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// The benchmark that is run only when it is named.
const PEERS: &str = "peers";

/// Runs the verb.
pub fn bench(workspace: &Workspace, options: &Options) -> Result<()> {
    ebpf::ensure(workspace)?;
    let (name, args) = match options.args.split_first() {
        Some((first, rest)) if first == PEERS => (PEERS, rest),
        _ => ("selection", options.args.as_slice()),
    };
    command::run(
        workspace
            .cargo()
            .args(["bench", "-p", "balancer", "--bench", name])
            .args(command::as_root())
            .arg("--")
            .args(args),
    )
}
