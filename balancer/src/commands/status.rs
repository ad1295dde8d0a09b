//! `balancer status`: what is known of a group.

use anyhow::Result;
use balancer_steering::{adoption::settling, steering::Store};

use crate::{
    cli::StatusArgs,
    commands::open_group,
    render::{self, say, say_json},
};

/// Prints a group as a table or as one JSON object.
pub fn status(args: &StatusArgs, store: &Store) -> Result<()> {
    let steering = open_group(store, &args.group)?;
    let snapshot = settling::snapshot(&steering)?;
    if args.json {
        return say_json(&snapshot);
    }
    say(format_args!("{}", render::table::status(&snapshot)))
}
