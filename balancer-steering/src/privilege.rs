//! What this process must be allowed to do, checked before anything is touched.

use std::{env, ffi::OsString};

use rustix::{
    process::{getegid, geteuid, getgid, getuid},
    thread::{CapabilitySet, capabilities},
};

/// The capabilities that steering needs, with what for.
pub const NEEDED: [(CapabilitySet, &str, &str); 2] = [
    (CapabilitySet::BPF, "CAP_BPF", "load programs and maps"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "load a program that steers sockets"),
];

/// And to run workers as another user.
const FOR_USERS: [(CapabilitySet, &str, &str); 3] = [
    (CapabilitySet::SETUID, "CAP_SETUID", "run workers as another user"),
    (CapabilitySet::SETGID, "CAP_SETGID", "run workers as another user"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP", "run workers without any capability"),
];

/// Lacking a capability.
#[derive(Debug, thiserror::Error)]
#[error(
    "this needs {} (to {purpose}); run it as root: {command}",
    .name,
    command = sudo_line()
)]
pub struct Unprivileged {
    name: &'static str,
    purpose: &'static str,
}

/// What was typed, as root would type it.
pub fn sudo_line() -> String {
    format!("sudo {}", env::args().collect::<Vec<_>>().join(" "))
}

/// Whether this program has rights that the user who started it has not, by set-user-ID or by
/// capabilities of its file. Then nothing of its environment may say what it loads or trusts.
pub fn are_raised() -> bool {
    // SAFETY: reads a number that the kernel has left in this process's memory.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) };
    secure != 0 || getuid() != geteuid() || getgid() != getegid()
}

/// A variable of the environment that says what is loaded or trusted: none under raised rights.
pub fn variable(name: &str) -> Option<OsString> {
    if are_raised() { None } else { env::var_os(name) }
}

/// Whether a capability is in effect. CAP_SYS_ADMIN stands for the two that were split off it.
pub fn has(capability: CapabilitySet) -> bool {
    let Ok(sets) = capabilities(None) else { return false };
    let split_off = CapabilitySet::BPF | CapabilitySet::PERFMON;
    sets.effective.contains(capability)
        || split_off.contains(capability) && sets.effective.contains(CapabilitySet::SYS_ADMIN)
}

/// Checks that programs can be loaded and attached.
///
/// # Errors
/// Names the first capability that lacks.
pub fn require() -> Result<(), Unprivileged> {
    require_all(&NEEDED)
}

/// Checks that processes can be started as another user.
///
/// # Errors
/// Names the first capability that lacks.
pub fn require_for_users() -> Result<(), Unprivileged> {
    require_all(&FOR_USERS)
}

fn require_all(needed: &[(CapabilitySet, &'static str, &'static str)]) -> Result<(), Unprivileged> {
    match needed.iter().find(|(capability, ..)| !has(*capability)) {
        None => Ok(()),
        Some((_, name, purpose)) => Err(Unprivileged { name, purpose }),
    }
}
