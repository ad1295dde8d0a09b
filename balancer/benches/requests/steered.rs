//! A server that is steered while it runs, and its requests.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use balancer_steering::{
    adoption::Attachment,
    discovery::{self, GroupWatcher, Netns},
    group::GroupSpec,
    requests::Requests,
    steering::Store,
};

use crate::group;

const GROUP: &str = "requests";

/// Takes the sockets that share an address into a group.
///
/// # Errors
/// Returns an error if none shares it, or the kernel refuses.
pub fn attach(store: &Store, address: SocketAddr) -> Result<Attachment> {
    let netns = Netns::own()?;
    let groups = discovery::groups_in(&netns)?;
    let found = groups.iter().find(|group| group.identity.address == address);
    let found = found.with_context(|| format!("no socket shares {address}"))?;
    let group = GroupSpec { adopted: true, ..group::at(address)? };
    let watcher = GroupWatcher::new(netns, found);
    let admits = Box::new(|_: &str| Ok(()));
    let (attachment, _logs) =
        Attachment::begin(store, GROUP, &group, found, watcher, false, admits)?;
    Ok(attachment)
}

/// What is known of the requests of all members together, which must be observed.
///
/// # Errors
/// Returns an error if they are not, or a map cannot be read.
pub fn requests(attachment: &Attachment) -> Result<Requests> {
    let members = attachment.steering().requests()?.context("requests are not observed")?;
    let mut all = Requests::default();
    for member in &members {
        all.to_answer += &member.to_answer;
        all.to_read += &member.to_read;
    }
    Ok(all)
}
