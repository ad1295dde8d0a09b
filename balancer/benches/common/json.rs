//! Results as a file that programs read.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Writes a report.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write(path: &Path, report: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("cannot write JSON")?;
    fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
}
