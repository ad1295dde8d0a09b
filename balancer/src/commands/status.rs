//! `balancer status`: what is known of a group.

use anyhow::Result;
use balancer_steering::{
    adoption::settling::{self, Heir},
    steering::Store,
};

use crate::{
    cli::StatusArgs,
    commands::open_group,
    render::{self, say, say_json},
};

/// Prints a group as a table or as one JSON object.
pub fn status(args: &StatusArgs, store: &Store) -> Result<()> {
    let steering = open_group(store, &args.group)?;
    let mut snapshot = steering.snapshot()?;
    // No agent may be there to record them.
    for Heir { member, worker, .. } in settling::present(&steering)? {
        for shown in snapshot.members.iter_mut().filter(|shown| shown.slot == member.slot) {
            shown.pid = worker.pid;
        }
    }
    if args.json {
        return say_json(&snapshot);
    }
    say(format_args!("{}", render::table::status(&snapshot)))
}
