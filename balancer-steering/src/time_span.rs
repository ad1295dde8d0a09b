//! How long to wait, as a user writes it: `30s`, `500ms`, `2m`.

use std::{fmt, str::FromStr, time::Duration};

/// A time to wait, longer than none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSpan(pub Duration);

/// Why a text is no time to wait.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time; write a whole number and a unit, such as 500ms, 30s or 5m")]
pub struct TimeSpanError(String);

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl FromStr for TimeSpan {
    type Err = TimeSpanError;

    fn from_str(text: &str) -> Result<Self, TimeSpanError> {
        let read = |(unit, millis): (&str, u64)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(millis).filter(|&millis| millis > 0)
        };
        let millis = UNITS.into_iter().find_map(read);
        millis
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| TimeSpanError(text.to_owned()))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis if millis % 1000 == 0 => write!(f, "{}s", millis / 1000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(text.parse(), Ok(TimeSpan(Duration::from_millis(millis))));
        }
    }

    #[test]
    fn what_is_no_time_is_refused_by_its_value_with_what_to_write() {
        for text in ["", "30", "0s", "-1s", "s", "1.5s", "18446744073709551615h", "soon"] {
            let message = text.parse::<TimeSpan>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("30s"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<TimeSpan>();
        }

        #[test]
        fn a_time_is_read_back_as_it_is_shown(millis in 1..=u64::from(u32::MAX)) {
            let time = TimeSpan(Duration::from_millis(millis));
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
