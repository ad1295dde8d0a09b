//! Data to text. Everything here but [`live::LiveView`] is pure.

pub mod groups;
pub mod line;
pub mod live;
pub mod policy;
pub mod service;
pub mod table;

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use balancer_steering::escape;
use serde::Serialize;

use crate::output::{self, Stream};

/// Prints one line of a command's result.
///
/// # Errors
/// Returns an error if standard output cannot be written to.
pub fn say(line: fmt::Arguments<'_>) -> Result<()> {
    let line = line.to_string();
    if output::print(Stream::Out, format!("{line}\n")) {
        return Ok(());
    }
    let line = escape::shown(&line, &io::stdout());
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}

/// Prints one object as JSON, on one line.
///
/// # Errors
/// If standard output cannot be written to.
pub fn say_json(object: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string(object).context("cannot write JSON")?;
    say(format_args!("{}", escape::json(&json)))
}
