//! `cargo xtask build-ebpf`: builds the eBPF object that is kept in git, or checks it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    ebpf::{self, compile, toolchain::Toolchain},
    workspace::Workspace,
};

/// Build the eBPF object that is kept in git, or check it
///
/// It needs bpf-linker and a Rust toolchain with the library's sources, and says how to install them if
/// they are missing.
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask build-ebpf                   after a change in balancer-ebpf; commit the result
  cargo xtask build-ebpf --check           was the object in git built from these sources?
  cargo xtask build-ebpf --out /tmp/new.o  to try it: BALANCER_OBJECT=/tmp/new.o balancer run")]
pub struct Options {
    /// Fail if the object in git is stale, build a fresh one elsewhere and print its path
    #[arg(long, conflicts_with = "out")]
    check: bool,
    /// Write the object here and leave the one in git alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the verb.
pub fn build_ebpf(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.check {
        println!("{}", ebpf::check(workspace)?.display());
        return Ok(());
    }
    let toolchain = Toolchain::find()?;
    match &options.out {
        Some(file) => ebpf::write(file, &compile::compile(workspace, &toolchain)?),
        None => ebpf::keep(workspace, &toolchain),
    }
}
