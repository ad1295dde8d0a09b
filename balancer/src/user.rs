//! The user that workers run as, with none of root's rights.

use std::{
    ffi::CString, io, os::unix::process::CommandExt as _, path::PathBuf, process::Command,
    str::FromStr,
};

use nix::unistd::{self, getgrouplist};
use rustix::{
    fs::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};

/// A user of this machine, not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
    /// All groups that the user is in.
    groups: Vec<Gid>,
    home: PathBuf,
}

/// Why a word is no user to run workers as.
#[derive(Debug, thiserror::Error)]
pub enum NoUser {
    /// There is none of this name or number.
    #[error("there is no user {0}; `getent passwd` lists them")]
    Unknown(String),
    /// It has all rights.
    #[error("{0} has all rights; name another user, or leave --user out to run workers as root")]
    Root(String),
    /// The system's database cannot be read.
    #[error("cannot look up the user {0}: {1}")]
    Unreadable(String, io::Error),
}

impl FromStr for User {
    type Err = NoUser;

    /// Looks a user up, by name or number.
    fn from_str(word: &str) -> Result<Self, NoUser> {
        let unreadable = |error| NoUser::Unreadable(word.to_owned(), io::Error::from(error));
        let found = match word.parse() {
            Ok(uid) => unistd::User::from_uid(unistd::Uid::from_raw(uid)),
            Err(_) => unistd::User::from_name(word),
        };
        let found = found.map_err(unreadable)?.ok_or_else(|| NoUser::Unknown(word.to_owned()))?;
        if found.uid.is_root() {
            return Err(NoUser::Root(word.to_owned()));
        }
        let name = CString::new(found.name.as_str()).unwrap_or_default();
        let groups = getgrouplist(&name, found.gid).map_err(unreadable)?;
        Ok(Self {
            name: found.name,
            uid: Uid::from_raw(found.uid.as_raw()),
            gid: Gid::from_raw(found.gid.as_raw()),
            groups: groups.into_iter().map(|group| Gid::from_raw(group.as_raw())).collect(),
            home: found.dir,
        })
    }
}

impl User {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has a command run as this user, and tells it so, as systemd does (`User=`).
    pub fn run(&self, command: &mut Command) {
        command.env("USER", &self.name).env("LOGNAME", &self.name).env("HOME", &self.home);
        let user = self.clone();
        // SAFETY: system calls between fork and exec, and nothing allocated.
        unsafe { command.pre_exec(move || user.become_it()) };
    }

    /// Makes the calling thread this user's for good, also for what it runs later; a process that has
    /// others must not call this.
    ///
    /// # Errors
    /// Returns an error if this process may not: it takes CAP_SETUID, CAP_SETGID and CAP_SETPCAP.
    pub fn become_it(&self) -> io::Result<()> {
        for capability in CapabilitySet::all().iter() {
            match remove_capability_from_bounding_set(capability) {
                // The kernel is older than the capability.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        // The kernel has emptied the others with that, unless it was told not to (SECBIT_KEEP_CAPS).
        clear_ambient_capability_set()?;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets)?;
        // Nor does it become anybody else by a program that is set-user-ID.
        Ok(set_no_new_privs(true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let nobody: User = "nobody".parse().unwrap();
        assert_eq!(nobody, nobody.uid.as_raw().to_string().parse().unwrap());
        assert!(!nobody.uid.is_root() && nobody.groups.contains(&nobody.gid));
    }

    #[test]
    fn root_and_nobody_known_are_refused() {
        for root in ["root", "0"] {
            assert!(matches!(root.parse::<User>(), Err(NoUser::Root(_))));
        }
        for unknown in ["", "no-such-user", "4294967294", "-1"] {
            assert!(matches!(unknown.parse::<User>(), Err(NoUser::Unknown(_))), "{unknown}");
        }
    }
}
