//! The program on the kernel's group: put there and taken off through a socket of a member.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use crate::error::{Context as _, Result};
use aya::programs::{
    ProgramError, SkReuseport, SkReuseportError, sk_reuseport::SkReuseportAttachType,
};

use super::{
    Change, Member, Steering, Store, directory,
    object::{self, Program},
};
use crate::{
    group::GroupSpec,
    policy::Policy,
    process::{self, Identity},
};

impl Steering {
    /// Attaches the group's policy through one of its sockets; or through one that is bound and
    /// does not listen yet, provided it will be the group's first.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn attach(&self, socket: BorrowedFd<'_>) -> Result<()> {
        let group = self.group()?;
        if group.policy.program().is_none() {
            return detach_program(socket).map(|_| ());
        }
        let pin = Program::pinned(&group, &self.directory)?
            .with_context(|| format!("the policy {} is not loaded", group.policy.name()))?;
        let program = SkReuseport::from_pin(&pin, SkReuseportAttachType::SelectOrMigrate)
            .with_context(|| format!("cannot open the program {}", pin.display()))?;
        program
            .attach(socket)
            .with_context(|| format!("cannot attach the policy {}", group.policy.name()))
    }

    /// As [`Steering::attach`], through whichever member's socket can be had; false where none is
    /// left, and the kernel's group is gone.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses, or nobody may be asked for a socket.
    pub fn attach_through_any(&self) -> Result<bool> {
        let socket = self.duplicate_any_socket()?;
        socket.as_ref().map_or(Ok(()), |socket| self.attach(socket.as_fd()))?;
        Ok(socket.is_some())
    }

    /// Attaches the program that was found not to be in force, and notes it. Under the group's lock.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses, or the record cannot be written.
    pub fn put_back(&mut self) -> Result<()> {
        self.attach_through_any()?;
        self.maps.loads.forget_choices();
        self.tell(|state| state.displaced = state.displaced.saturating_add(1))
    }

    /// Attaches this build's program instead of an earlier one's, in one step, as after a takeover; what
    /// the earlier one was pinned by goes. Under the group's lock.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn renew(&mut self) -> Result<()> {
        let group = self.group()?;
        if group.counted {
            self.host.count()?;
        }
        let earlier = object::pins_of_others(&self.directory)?;
        if Program::pinned(&group, &self.directory)?.is_none() {
            object::load(&self.directory, &group)?;
        }
        self.attach_through_any()?;
        earlier.iter().try_for_each(|pin| directory::remove_pin(pin))
    }

    /// Takes somebody else's program off a group that is not ours yet, and notes it: the kernel does
    /// not hand it out, so it cannot be put back.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn displace(&mut self, socket: BorrowedFd<'_>) -> Result<bool> {
        let displaced = detach_program(socket)?;
        if displaced {
            let group = self.group()?;
            self.maps.set_group(&GroupSpec { replaced: true, ..group })?;
        }
        Ok(displaced)
    }

    /// A duplicate of a living member's socket; `None` where no member lives, so that the kernel's
    /// group is gone, and whatever was attached with it.
    pub(super) fn duplicate_any_socket(&self) -> Result<Option<OwnedFd>> {
        self.duplicate_socket_among(&self.members()?)
    }

    /// As [`Steering::duplicate_any_socket`], of one of these members.
    pub(super) fn duplicate_socket_among(&self, members: &[Member]) -> Result<Option<OwnedFd>> {
        let mut denied = None;
        let workers = members.iter().map(|member| (member, member.worker));
        // A worker may have left its socket to a successor, as those of nginx do.
        for (member, process) in workers.chain(members.iter().flat_map(|m| self.heirs(m))) {
            match process::duplicate_socket(process, member.inode, member.cookie) {
                Ok(socket) => return Ok(Some(socket)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    denied = Some((process.pid, error));
                }
                Err(_) => {}
            }
        }
        match denied {
            None => Ok(None),
            Some((pid, error)) => Err(error).with_context(|| {
                format!("cannot duplicate the socket of PID {pid} (needs root, or CAP_SYS_PTRACE)")
            }),
        }
    }

    /// Everybody who has a member's socket, if it is there.
    fn heirs<'a>(&self, member: &'a Member) -> impl Iterator<Item = (&'a Member, Identity)> {
        let seated = self.is_seated(member).unwrap_or(false);
        let holders = if seated { process::socket_holders(member.inode) } else { Vec::new() };
        holders.into_iter().filter_map(Identity::of).map(move |process| (member, process))
    }

    /// Gives the group back to the kernel's hash and removes its pins. The workers go on.
    ///
    /// # Errors
    /// Returns an error if the program cannot be detached; then the pins stay.
    pub fn detach(mut self, store: &Store) -> Result<()> {
        let to_kernel = |change: &mut Change<'_>| -> Result<()> {
            change.set_policy(Policy::Kernel, change.group().options);
            Ok(())
        };
        self.change_locked(to_kernel)?;
        for member in self.members()? {
            if let Ok(Some(socket)) = self.duplicate_socket_among(&[member]) {
                self.unplace_listener(socket.as_fd());
            }
            // The array lasts as long as an agent has it open, and would keep the socket from another.
            self.maps.clear_socket(member.slot)?;
        }
        store.remove(&self.name)
    }

    /// Removes a group's pins if they are this agent's: the group may have been given back
    /// meanwhile, and its name taken by another.
    ///
    /// # Errors
    /// Returns an error if a pin cannot be removed.
    pub fn remove_pins_of(store: &Store, name: &str, agent: Identity) -> Result<()> {
        match Self::open(store, name).and_then(|pinned| pinned.group()) {
            Ok(group) if group.agent == agent => store.remove(name),
            _ => Ok(()),
        }
    }
}

/// Whether there was a program to detach.
fn detach_program(socket: BorrowedFd<'_>) -> Result<bool> {
    match SkReuseport::detach(socket) {
        Ok(()) => Ok(true),
        // Nothing was attached.
        Err(ProgramError::SkReuseportError(SkReuseportError::SetsockoptError {
            io_error, ..
        })) if io_error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("cannot detach the program"),
    }
}
