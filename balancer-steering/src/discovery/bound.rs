//! The listening socket that a process bound for itself.

use std::{net::SocketAddr, os::fd::OwnedFd};

use socket2::SockRef;

use super::{
    Problem,
    diag::{self, BoundSocket},
    family,
};
use crate::{
    group::GroupIdentity,
    process::{self, Identity},
};

/// A listening socket, borrowed. Close it soon, as [`process::duplicate_fd`] says.
#[derive(Debug)]
pub struct Bound {
    /// Who has it: a process, or one that descends from it.
    pub holder: Identity,
    /// A duplicate.
    pub socket: OwnedFd,
}

/// Why there is none to be had.
#[derive(Debug, thiserror::Error)]
pub enum NotBound {
    /// Not there; it may be soon.
    #[error("{}", elsewhere(.0))]
    NotYet(Vec<SocketAddr>),
    /// There, but of no use.
    #[error("{0}")]
    Unfit(String),
}

fn elsewhere(addresses: &[SocketAddr]) -> String {
    if addresses.is_empty() {
        return "it does not listen on any address of that protocol".to_owned();
    }
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("it listens on {}", addresses.join(", "))
}

/// The socket with which a process or one of its descendants listens on an address of this network
/// namespace, or by UDP is bound to it.
///
/// # Errors
/// Returns an error if there is none, more than one, or one that cannot be steered.
pub fn bound_by(pid: u32, group: &GroupIdentity) -> Result<Bound, NotBound> {
    let unfit = |sentence: String| NotBound::Unfit(sentence);
    let listeners = diag::sockets_on(group.protocol, 0)
        .map_err(|error| unfit(format!("its sockets cannot be listed: {error}")))?;
    let held = family::sockets(&family::of(pid, &Default::default()));
    let (there, elsewhere): (Vec<BoundSocket>, Vec<BoundSocket>) = listeners
        .into_iter()
        .filter(|listener| held.contains_key(&listener.inode))
        .partition(|listener| listener.place.address == group.address);
    let [listener] = there.as_slice() else {
        return Err(match there.len() {
            0 => NotBound::NotYet(elsewhere.iter().map(|other| other.place.address).collect()),
            count => unfit(format!(
                "it has {count} sockets there, and a worker may have only one (nginx: worker_processes 1)"
            )),
        });
    };
    if listener.mptcp {
        let (name, explanation) = (Problem::Mptcp.name(), Problem::Mptcp.explanation());
        return Err(unfit(format!("its socket there speaks {name}, which {explanation}")));
    }
    // It may have been closed since; then there is none yet.
    let gone = || NotBound::NotYet(Vec::new());
    let (holder, fd) = *held.get(&listener.inode).ok_or_else(gone)?;
    let socket = process::duplicate_fd(holder, fd, listener.inode).map_err(|_| gone())?;
    let borrowed = SockRef::from(&socket);
    if !matches!(borrowed.cookie(), Ok(cookie) if cookie == listener.cookie) {
        return Err(gone());
    }
    if !borrowed.reuse_port().unwrap_or(false) {
        return Err(unfit(
            "its socket there does not have SO_REUSEPORT set (nginx: listen … reuseport)"
                .to_owned(),
        ));
    }
    Ok(Bound { holder, socket })
}
