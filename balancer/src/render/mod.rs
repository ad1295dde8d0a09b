//! Data to text. Everything here but [`live::LiveView`] is pure.

pub mod compare;
pub mod groups;
pub mod line;
pub mod live;
pub mod table;

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};

/// Prints one line of a command's result.
///
/// # Errors
/// Where standard output cannot be written to.
pub fn say(line: fmt::Arguments<'_>) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}
