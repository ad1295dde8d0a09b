//! The difference between wrong usage (exit 2) and everything else that can go wrong (exit 1).

use std::fmt;

use balancer_steering::ErrorKind;

/// What was asked for cannot be meant: exit code 2, like the command line parser's own refusals.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// With a sentence that names value, limit and remedy.
    pub fn new(sentence: impl fmt::Display) -> Self {
        Self(sentence.to_string())
    }
}

/// The exit code for an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() { 2 } else { 1 }
}

/// An error as it is shown: one sentence, causes after colons.
pub fn sentence(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

/// An error of the library, with what to type about it.
pub fn with_remedy(error: balancer_steering::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        ErrorKind::Taken => {
            "`balancer attach --replace` takes it, and what was there cannot be put back"
        }
        ErrorKind::NoBpffs => "name another directory with --bpffs",
        _ => return error.into(),
    };
    anyhow::anyhow!("{error:#}; {remedy}")
}
