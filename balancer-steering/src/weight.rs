//! Weights as a user writes them: `5,3,2` for a new group, `PID=5` or `slot:3=5` for a running one.

use std::{fmt, str::FromStr};

use balancer_common::MAX_WEIGHT;

use crate::who::Who;

/// A member's share relative to the others: 1 to [`MAX_WEIGHT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(u16);

/// Why a text is no weight.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "weight `{0}` is not a whole number from 1 to {MAX_WEIGHT}{hint}",
    hint = if .0 == "0" { " (to give a worker nothing, drain or stop it)" } else { "" }
)]
pub struct WeightError(String);

impl Weight {
    /// The weight of a member that was given none.
    pub const ONE: Self = Self(1);

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Reads the number of a member's record; one of a stranger's making is brought into range.
    pub fn from_record(number: u16) -> Self {
        Self(number.clamp(1, MAX_WEIGHT))
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Self, WeightError> {
        match text.trim().parse() {
            Ok(number @ 1..=MAX_WEIGHT) => Ok(Self(number)),
            _ => Err(WeightError(text.trim().to_owned())),
        }
    }
}

/// `PID=WEIGHT` or `slot:N=WEIGHT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerWeight {
    /// The worker, or one of its sockets.
    pub who: Who,
    /// Its new weight.
    pub weight: Weight,
}

/// Why a text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerWeightError {
    /// No `=` in it, or nobody before it.
    #[error(
        "`{0}` is not PID=WEIGHT, such as 4711=5, nor slot:N=WEIGHT; `balancer status` lists both"
    )]
    Shape(String),
    /// The part after `=`.
    #[error(transparent)]
    Weight(#[from] WeightError),
}

impl FromStr for WorkerWeight {
    type Err = WorkerWeightError;

    fn from_str(text: &str) -> Result<Self, WorkerWeightError> {
        let shape = || WorkerWeightError::Shape(text.to_owned());
        let (who, weight) = text.split_once('=').ok_or_else(shape)?;
        Ok(Self { who: who.trim().parse().map_err(|_| shape())?, weight: weight.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_weight_in_range_is_read_and_shown_alike(number in 1..=MAX_WEIGHT) {
            let weight: Weight = number.to_string().parse().unwrap();
            prop_assert_eq!(weight.get(), number);
            prop_assert_eq!(weight.to_string(), number.to_string());
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            let _ = text.parse::<Weight>();
            let _ = text.parse::<WorkerWeight>();
        }
    }

    #[test]
    fn a_weight_out_of_range_is_refused_with_value_limit_and_remedy() {
        for text in ["0", "1001", "x", "-1", "1.5", ""] {
            let message = text.parse::<Weight>().unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{text}`")) && message.contains("1 to 1000"),
                "{message}"
            );
        }
        assert!("0".parse::<Weight>().unwrap_err().to_string().contains("drain or stop it"));
    }

    #[test]
    fn a_worker_weight_needs_a_pid_and_an_equals_sign() {
        assert_eq!("7=5".parse(), Ok(WorkerWeight { who: Who::Pid(7), weight: Weight(5) }));
        assert_eq!("slot:7=5".parse(), Ok(WorkerWeight { who: Who::Slot(7), weight: Weight(5) }));
        for text in ["7", "=5", "x=5", "0=5"] {
            let message = text.parse::<WorkerWeight>().unwrap_err().to_string();
            assert!(message.contains("PID=WEIGHT"), "{message}");
        }
        assert!("7=0".parse::<WorkerWeight>().unwrap_err().to_string().contains("1 to 1000"));
    }
}
