//! The group that a bench steers: of this process, with the kernel's hash to begin with.

use std::{net::SocketAddr, process};

use anyhow::{Context as _, Result};
use balancer_steering::{
    group::{GroupIdentity, GroupSpec, Protocol, own_netns},
    options::PolicyOptions,
    policy::Policy,
    process::Identity,
};

/// At a TCP address in this thread's network namespace; connections are counted.
///
/// # Errors
/// Returns an error if /proc cannot be read.
pub fn at(address: SocketAddr) -> Result<GroupSpec> {
    Ok(GroupSpec {
        identity: GroupIdentity { netns: own_netns()?, protocol: Protocol::Tcp, address },
        policy: Policy::Kernel,
        agent: Identity::of(process::id()).context("cannot read /proc/self/stat")?,
        log_level: 0,
        adopted: false,
        replaced: false,
        counted: true,
        flows: None,
        index: 0,
        service: None,
        options: PolicyOptions::default(),
    })
}
