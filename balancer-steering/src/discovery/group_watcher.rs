//! One group, looked at again and again: cheaply, until something is new. And who else is on a port.

use crate::error::{Context as _, Result};

use super::{
    BoundSocket, FoundGroup, FoundSocket, Netns,
    diag::{self, Place},
    found_socket,
    holders::Holders,
    shares, sockets_in,
};
use crate::group::Protocol;

/// Where a group is, or was and will be again.
#[derive(Debug)]
pub struct GroupWatcher {
    netns: Netns,
    place: Place,
}

impl GroupWatcher {
    /// At the place of a group that was found in this network namespace.
    pub fn new(netns: Netns, group: &FoundGroup) -> Self {
        let FoundGroup { identity, v6only, device, uid, .. } = group;
        let place = Place {
            protocol: identity.protocol,
            address: identity.address,
            v6only: *v6only,
            device: device.clone(),
            uid: *uid,
        };
        Self { netns, place }
    }

    /// The sockets that are there now, as the kernel lists them; one call, and no process is looked
    /// at. For UDP they need not be members: they may share the address by SO_REUSEADDR.
    ///
    /// # Errors
    /// Returns an error if the kernel does not list them.
    pub fn sockets(&self) -> Result<Vec<BoundSocket>> {
        let netns = &self.netns;
        netns
            .run(|| diag::sockets_at(&self.place))
            .with_context(|| format!("cannot list the sockets of the network namespace {netns}"))
    }

    /// Who holds these sockets, by looking at every process.
    pub fn found(&self, sockets: &[&BoundSocket]) -> Vec<FoundSocket> {
        found(sockets, &Holders::of(sockets.iter().map(|socket| socket.inode)))
    }
}

fn found(sockets: &[&BoundSocket], holders: &Holders) -> Vec<FoundSocket> {
    let found = |socket: &&BoundSocket| found_socket(socket, holders.of_socket(socket.inode));
    sockets.iter().map(found).collect()
}

/// A socket on a port, whether it shares it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnrelatedSocket {
    /// `tcp/0.0.0.0:80`
    pub place: String,
    /// The port's protocol.
    pub protocol: Protocol,
    /// It has SO_REUSEPORT.
    pub shares: bool,
    /// And who has it.
    pub socket: FoundSocket,
}

/// Everybody on a port of a network namespace.
///
/// # Errors
/// Returns an error if the kernel does not list them.
pub fn unrelated_sockets(netns: &Netns, port: u16) -> Result<Vec<UnrelatedSocket>> {
    let mut sockets = sockets_in(netns)?;
    sockets.retain(|socket| socket.place.address.port() == port);
    let holders = Holders::of(sockets.iter().map(|socket| socket.inode));
    let unrelated = |socket: &BoundSocket| {
        let held = holders.of_socket(socket.inode);
        UnrelatedSocket {
            place: format!("{}/{}", socket.place.protocol, socket.place.address),
            protocol: socket.place.protocol,
            shares: shares(socket, held) == Some(true),
            socket: found_socket(socket, held),
        }
    };
    Ok(sockets.iter().map(unrelated).collect())
}
