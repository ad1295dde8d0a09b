//! Where the workspace and its build output are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command;

/// The workspace that `cargo xtask` was called in.
pub struct Workspace {
    /// Where the workspace's Cargo.toml is.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds it by what cargo tells the programs that it runs.
    pub fn find() -> Result<Self> {
        // Not `env!`: two checkouts may share one target directory, and so one xtask binary.
        let root = env::var_os("CARGO_MANIFEST_DIR")
            .as_deref()
            .and_then(|xtask| Path::new(xtask).parent())
            .context("CARGO_MANIFEST_DIR is not set; start this program as `cargo xtask`")?
            .to_path_buf();
        let target = target_directory(&root)?;
        Ok(Self { root, target })
    }

    /// A cargo command that runs at the workspace root.
    pub fn cargo(&self) -> std::process::Command {
        command::cargo(&self.root)
    }
}

/// Asks cargo, which alone knows all the places where a target directory can be set.
fn target_directory(root: &Path) -> Result<PathBuf> {
    let output = command::capture(command::cargo(root).args([
        "metadata",
        "--format-version=1",
        "--no-deps",
    ]))?;
    let metadata: Value =
        serde_json::from_str(&output).context("cargo metadata did not print JSON")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target_directory; is this cargo older than 1.90?")?;
    Ok(PathBuf::from(target))
}
