//! What keeps an agent from its work for a while, and when that is worth a line.

use std::time::{Duration, Instant};

use balancer_steering::error::{Error, ErrorKind};

/// How long another process may have a group's lock before that is said.
const LONG: Duration = Duration::from_secs(2);

/// That another process has the lock, or that it cannot be had.
#[derive(Default)]
pub struct Hindrance {
    since: Option<Instant>,
    said: bool,
}

impl Hindrance {
    /// What to say of it, once: at once, unless it is usual for a moment.
    pub fn met(&mut self, error: &anyhow::Error) -> Option<String> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.said || is_busy(error) && since.elapsed() < LONG {
            return None;
        }
        self.said = true;
        Some(format!("{error:#}; what is to be done in the group is tried again until it can be"))
    }

    /// It is over.
    pub fn passed(&mut self) {
        *self = Self::default();
    }
}

fn is_busy(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    causes.into_iter().any(|error| error.kind() == ErrorKind::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_cannot_be_had_is_said_once_until_it_can() {
        let mut hindrance = Hindrance::default();
        let error = anyhow::anyhow!("no locks available");
        assert!(hindrance.met(&error).unwrap().starts_with("no locks available; "));
        assert_eq!(hindrance.met(&error), None);
        hindrance.passed();
        assert!(hindrance.met(&error).is_some());
    }
}
