//! `balancer groups`: every group of this machine, whoever started it.

use anyhow::Result;
use balancer_steering::{
    discovery::{
        self, Everywhere, Netns,
        listing::{ListedGroup, Listing, PinnedGroup},
    },
    steering::{Steering, Store},
};

use crate::{
    cli::GroupsArgs,
    render::{self, say, say_json},
};

/// Prints the groups as a table or as one JSON object.
pub fn groups(args: &GroupsArgs, store: &Store) -> Result<()> {
    // First: without the right to read them, nothing that follows can be seen in full.
    let pinned = pinned(store)?;
    let (found, home) = match &args.netns {
        Some(argument) => {
            let netns = Netns::open(argument)?;
            let groups = discovery::groups_in(&netns)?;
            (Everywhere { groups, skipped: 0 }, netns.inode())
        }
        None => (discovery::groups_everywhere()?, Netns::own()?.inode()),
    };
    let listing = Listing {
        groups: found.groups.into_iter().map(|group| ListedGroup::new(group, &pinned)).collect(),
        skipped_namespaces: found.skipped,
        home,
    };
    if args.json {
        return say_json(&listing);
    }
    say(format_args!("{}", render::groups::listing(&listing)))
}

/// What is pinned. A group that cannot be read is warned of: it may be another version's.
fn pinned(store: &Store) -> Result<Vec<PinnedGroup>> {
    let mut pinned = Vec::new();
    for name in store.names()? {
        match cookies(store, &name) {
            Ok(cookies) => pinned.push(PinnedGroup { name, cookies }),
            // Given back to the kernel since it was listed.
            Err(_) if !store.directory(&name).exists() => {}
            Err(error) => tracing::warn!("{error:#}; it is not shown whether it steers anything"),
        }
    }
    Ok(pinned)
}

fn cookies(store: &Store, name: &str) -> Result<Vec<u64>> {
    let steering = Steering::open(store, name)?;
    // Refuses a record of another layout.
    steering.group()?;
    Ok(steering.members()?.iter().map(|member| member.cookie).collect())
}
