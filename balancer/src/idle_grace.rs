//! How long connections must be idle before their worker may end all the same.

use std::{fmt, str::FromStr, time::Duration};

use balancer_steering::{steering::Remaining, time_span::TimeSpan};

/// How long; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleGrace(pub Option<Duration>);

/// Unless something else is said.
pub const USUAL: &str = "2s";

/// Why a text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time that connections must be idle; write a time such as 2s, or `off`")]
pub struct IdleGraceError(String);

impl IdleGrace {
    /// Whether a worker with that left may end: it has nothing, or only connections that have been idle
    /// for long enough.
    pub fn lets_go(self, remaining: Remaining) -> bool {
        remaining.is_nothing() || self.0.is_some_and(|grace| remaining.is_idle_for(grace))
    }
}

impl FromStr for IdleGrace {
    type Err = IdleGraceError;

    fn from_str(text: &str) -> Result<Self, IdleGraceError> {
        match text.parse::<TimeSpan>() {
            _ if text == "off" => Ok(Self(None)),
            Ok(TimeSpan(time)) => Ok(Self(Some(time))),
            Err(_) => Err(IdleGraceError(text.to_owned())),
        }
    }
}

impl fmt::Display for IdleGrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => TimeSpan(time).fmt(f),
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use balancer_steering::steering::About;

    use super::*;

    const GRACE: Duration = Duration::from_secs(2);

    fn remaining(busy: u64, quiet: Duration) -> Remaining {
        Remaining { open: 3, about: Some(About { busy, quiet }), ..Remaining::default() }
    }

    #[test]
    fn a_worker_may_go_with_connections_that_have_been_idle_for_the_grace_alone() {
        let grace = IdleGrace(Some(GRACE));
        assert!(grace.lets_go(Remaining::default()) && grace.lets_go(remaining(0, GRACE)));
        assert!(!grace.lets_go(remaining(0, GRACE / 2)) && !grace.lets_go(remaining(1, GRACE)));
        let arriving = Remaining { arriving: 1, ..remaining(0, GRACE) };
        assert!(!grace.lets_go(arriving) && !IdleGrace(None).lets_go(remaining(0, GRACE)));
        assert!(!grace.lets_go(Remaining { about: None, ..remaining(0, GRACE) }));
    }

    #[test]
    fn a_grace_is_read_back_as_it_is_shown() {
        for text in ["2s", "500ms", "off"] {
            assert_eq!(text.parse::<IdleGrace>().unwrap().to_string(), text);
        }
        assert!("soon".parse::<IdleGrace>().unwrap_err().to_string().contains("`soon`"));
    }
}
