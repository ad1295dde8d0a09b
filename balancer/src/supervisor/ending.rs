//! How a worker is asked to end, and when one that does not is killed.

use std::{fmt, str::FromStr, time::Duration};

use rustix::process::Signal;

/// What servers take for a request to finish and end, by name.
const NAMES: [(&str, Signal); 7] = [
    ("TERM", Signal::TERM),
    ("QUIT", Signal::QUIT),
    ("INT", Signal::INT),
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
];

/// The signal that asks a worker to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(pub Signal);

/// Why a text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no signal that asks a server to end; choose from {names}",
    names = NAMES.map(|(name, _)| name).join(", "))]
pub struct StopSignalError(String);

impl FromStr for StopSignal {
    type Err = StopSignalError;

    fn from_str(text: &str) -> Result<Self, StopSignalError> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let named = NAMES.into_iter().find(|(known, _)| *known == name);
        named.map(|(_, signal)| Self(signal)).ok_or_else(|| StopSignalError(text.to_owned()))
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMES.into_iter().find(|(_, signal)| *signal == self.0);
        write!(f, "SIG{}", named.map_or("", |(name, _)| name))
    }
}

/// How a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What asks it to.
    pub signal: StopSignal,
    /// How long it may take, then it is killed; `None`: as long as its connections may take to finish, and at
    /// the end of all as long as it takes.
    pub kill_after: Option<Duration>,
}

impl Default for Ending {
    fn default() -> Self {
        Self { signal: StopSignal(Signal::TERM), kill_after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_with_and_without_its_prefix_and_shown_with_it() {
        for (name, signal) in NAMES {
            assert_eq!(name.to_lowercase().parse(), Ok(StopSignal(signal)));
            assert_eq!(StopSignal(signal).to_string().parse(), Ok(StopSignal(signal)));
        }
    }

    #[test]
    fn what_would_not_let_a_server_finish_is_refused_with_what_there_is() {
        let error = "KILL".parse::<StopSignal>().unwrap_err().to_string();
        assert!(error.contains("`KILL`") && error.contains("TERM, QUIT"), "{error}");
    }
}
