//! What is compared: the policies, and one way of sharing a port that needs none.

use std::{fmt, str::FromStr};

use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// A way to get new connections to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Contender {
    /// A socket a worker, and this policy.
    Policy(Policy),
    /// One listening socket that all workers wait on with `EPOLLEXCLUSIVE`: what most servers do
    /// without `SO_REUSEPORT`.
    Shared,
}

/// The plain kernel hash, which everything is compared with.
pub const KERNEL: Contender = Contender::Policy(Policy::Kernel);

/// No policy may be called so.
const SHARED: &str = "shared";

impl Contender {
    /// Everything there is to compare, the kernel's own ways first.
    pub fn all() -> Vec<Self> {
        let baselines = [KERNEL, Self::Shared, Self::Policy(Policy::Noop)];
        let steered = Policy::value_variants()
            .iter()
            .filter(|policy| !matches!(policy, Policy::Kernel | Policy::Noop | Policy::Fixed))
            .map(|&policy| Self::Policy(policy));
        baselines.into_iter().chain(steered).collect()
    }

    /// Its name, as on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy(policy) => policy.name(),
            Self::Shared => SHARED,
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::all();
        all.iter().copied().find(|contender| contender.name() == name).ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|contender| contender.name()).collect();
            format!("`{name}` is no policy to compare; there are: {}", names.join(", "))
        })
    }
}

impl From<Contender> for String {
    fn from(contender: Contender) -> Self {
        contender.name().to_owned()
    }
}

impl TryFrom<String> for Contender {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contender_is_read_back_from_its_name() {
        for contender in Contender::all() {
            assert_eq!(contender.name().parse(), Ok(contender));
        }
        assert!("fixed".parse::<Contender>().unwrap_err().contains("round-robin"));
    }
}
