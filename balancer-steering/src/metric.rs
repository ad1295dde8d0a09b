//! What counts as a member's load where loads are compared. Pure.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What counts as a worker's load, for the policies that compare loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// A worker's open connections, and those on their way
    #[default]
    Connections = 0,
    /// What the worker reports itself, in a map of its own
    Reported = 1,
    /// Requests that it has yet to answer, as the kernel sees them (Linux 6.3)
    Requests = 2,
}

impl Metric {
    /// All of them, the usual one first.
    pub const ALL: [Self; 3] = [Self::Connections, Self::Reported, Self::Requests];

    /// Its name, as on the command line and in `status --json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Reported => "reported",
            Self::Requests => "requests",
        }
    }

    /// What it is, in a line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Connections => "A worker's open connections, and those on their way",
            Self::Reported => "What the worker reports itself, in a map of its own",
            Self::Requests => {
                "Requests that it has yet to answer, as the kernel sees them (Linux 6.3)"
            }
        }
    }
}

/// A name that no kind of load has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no load `{0}`")]
pub struct UnknownLoad(String);

impl FromStr for Metric {
    type Err = UnknownLoad;

    fn from_str(name: &str) -> Result<Self, UnknownLoad> {
        let named = Self::ALL.into_iter().find(|load| load.name() == name);
        named.ok_or_else(|| UnknownLoad(name.to_owned()))
    }
}
