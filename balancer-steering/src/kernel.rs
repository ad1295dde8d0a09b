//! The running kernel's release, and the oldest that will do.

use std::fmt;

/// Migration out of a closing listener, `migrating_sk` and `sk_reuseport/migrate` came with it.
pub const MINIMUM: Release = Release { major: 5, minor: 14 };

/// Before it, the kernel follows a program of somebody without CAP_PERFMON also into branches that it
/// will never take but the CPU might begin to (Spectre v1), and refuses what it finds there. Since, it
/// puts a barrier before them ("bpf: Fall back to nospec for Spectre v1").
pub const BARRIERS: Release = Release { major: 6, minor: 17 };

/// The tracepoints that tell when a process reads from and writes to a connection came with it
/// (`sock_recv_length`, `sock_send_length`).
pub const REQUESTS: Release = Release { major: 6, minor: 3 };

/// A kernel release, as far as features go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// Linux **6**.1.
    pub major: u32,
    /// Linux 6.**1**.
    pub minor: u32,
}

/// The running kernel is too old.
#[derive(Debug, thiserror::Error)]
#[error(
    "this kernel is Linux {0}, and steering needs {MINIMUM}; `balancer doctor` says how to fix it"
)]
pub struct TooOld(String);

impl Release {
    /// Reads `6.1.0-32-amd64` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The release of the running kernel, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Checks that a kernel of this release can steer.
///
/// # Errors
/// Returns an error if it is too old, or its release cannot be read.
pub fn require(release: String) -> Result<(), TooOld> {
    match Release::parse(&release) {
        Some(version) if version >= MINIMUM => Ok(()),
        _ => Err(TooOld(release)),
    }
}

/// Whether a kernel of this release takes our programs only from who has CAP_PERFMON.
pub fn wants_perfmon(release: &str) -> bool {
    Release::parse(release).is_none_or(|version| version < BARRIERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_ordered_by_number() {
        let release = |text| Release::parse(text).unwrap();
        assert_eq!(release("6.1.0-32-amd64"), Release { major: 6, minor: 1 });
        assert!(
            release("5.9.1") < MINIMUM
                && release("5.14.0-rc1") == MINIMUM
                && release("10.0") > MINIMUM
        );
        assert_eq!(Release::parse(""), None);
    }

    #[test]
    fn a_kernel_without_barriers_wants_perfmon() {
        assert!(wants_perfmon("6.12.117+deb12-cloud-amd64") && !wants_perfmon("6.17.0"));
    }

    #[test]
    fn a_kernel_too_old_is_refused_by_name_limit_and_remedy() {
        let message = require("5.10.0".to_owned()).unwrap_err().to_string();
        assert!(
            message.contains("5.10.0") && message.contains("5.14") && message.contains("doctor")
        );
        assert!(require("6.1.0".to_owned()).is_ok());
    }
}
