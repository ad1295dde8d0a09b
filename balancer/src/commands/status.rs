//! `balancer status`: what is known of a group.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

use crate::{cli::StatusArgs, commands::open_group, render, steering::Store};

/// Prints a group as a table or as one JSON object.
pub fn status(args: &StatusArgs, store: &Store) -> Result<()> {
    let snapshot = open_group(store, &args.group)?.snapshot()?;
    let text = if args.json {
        serde_json::to_string(&snapshot).context("cannot write JSON")?
    } else {
        render::table::status(&snapshot)
    };
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}
