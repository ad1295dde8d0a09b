//! Whom of a group a command means: a worker by its PID, with all of its sockets, or one socket by its slot, as of
//! one thread of several.

use std::{fmt, str::FromStr};

/// One member, or all of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// `4711`: all members of this process.
    Pid(u32),
    /// `slot:3`: the member that is in this slot at that time.
    Slot(u32),
}

impl Who {
    /// Whether a member is meant, by its slot and the PID of its worker.
    pub fn is(self, slot: u32, pid: u32) -> bool {
        match self {
            Self::Pid(meant) => meant == pid,
            Self::Slot(meant) => meant == slot,
        }
    }

    /// The process, if it goes by that.
    pub fn pid(self) -> Option<u32> {
        match self {
            Self::Pid(pid) => Some(pid),
            Self::Slot(_) => None,
        }
    }

    /// As it is typed.
    pub fn typed(self) -> String {
        match self {
            Self::Pid(pid) => pid.to_string(),
            Self::Slot(slot) => format!("slot:{slot}"),
        }
    }
}

/// As the subject of a sentence.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "PID {pid}"),
            Self::Slot(slot) => write!(f, "slot {slot}"),
        }
    }
}

/// Why a text means nobody.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a PID such as 4711 nor a slot such as slot:3; `balancer status` lists both"
)]
pub struct WhoError(String);

impl FromStr for Who {
    type Err = WhoError;

    fn from_str(text: &str) -> Result<Self, WhoError> {
        let error = || WhoError(text.to_owned());
        if let Some(slot) = text.strip_prefix("slot:") {
            return slot.parse().map(Self::Slot).map_err(|_| error());
        }
        text.parse().ok().filter(|&pid| pid != 0).map(Self::Pid).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_typed_is_read_back(number in 1..u32::MAX, by_slot: bool) {
            let who = if by_slot { Who::Slot(number) } else { Who::Pid(number) };
            prop_assert_eq!(who.typed().parse(), Ok(who));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<Who>();
        }
    }

    #[test]
    fn a_process_has_all_of_its_sockets_and_a_slot_is_one() {
        assert!(Who::Pid(7).is(0, 7) && Who::Pid(7).is(1, 7) && !Who::Pid(7).is(7, 8));
        assert!(Who::Slot(1).is(1, 7) && !Who::Slot(1).is(0, 7));
    }

    #[test]
    fn what_is_neither_is_refused_with_what_would_do() {
        for text in ["0", "x", "slot:", "slot:x", "slot3", "-1", ""] {
            let message = text.parse::<Who>().unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{text}`")) && message.contains("slot:3"),
                "{message}"
            );
        }
    }
}
