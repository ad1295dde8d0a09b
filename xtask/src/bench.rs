//! `cargo xtask bench`: what one choice costs, measured in the kernel; what others would cost; and
//! what the kernel sees of requests.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::{command, ebpf, workspace::Workspace};

/// Measure the policies, with `peers` HAProxy, nginx and nftables too, or with `requests` what the kernel
/// sees of requests; through sudo if need be
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask bench
  cargo xtask bench round-robin
  cargo xtask bench -- --help
  cargo xtask bench peers
  cargo xtask bench peers --help
  cargo xtask bench requests
  cargo xtask bench requests --help")]
pub struct Options {
    /// Arguments of the benchmark; after `peers` or `requests`, of that one
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// The benchmarks that are run only when they are named.
const NAMED: [&str; 2] = ["peers", "requests"];

/// Runs the verb.
pub fn bench(workspace: &Workspace, options: &Options) -> Result<()> {
    ebpf::ensure(workspace)?;
    let named = options.args.split_first().and_then(|(first, rest)| {
        NAMED.into_iter().find(|name| first == name).map(|name| (name, rest))
    });
    let (name, args) = named.unwrap_or(("selection", options.args.as_slice()));
    command::run(
        workspace
            .cargo()
            .args(["bench", "-p", "balancer", "--bench", name])
            .args(command::as_root())
            .arg("--")
            .args(args),
    )
}
