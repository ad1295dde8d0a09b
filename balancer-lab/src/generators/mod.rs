//! What load generators print of themselves: p50 and p99, where the form is known. Pure.

mod h2load;
mod k6;
mod oha;
mod wrk;

use serde::Serialize;

/// What a generator says of its latency, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Which generator.
    pub by: &'static str,
    /// The median.
    pub p50: Option<f64>,
    /// What a hundredth is above.
    pub p99: Option<f64>,
}

/// What a generator printed of its latency, if it is of a known kind.
pub fn told(output: &str) -> Option<Told> {
    [wrk::told, oha::told, k6::told, h2load::told].into_iter().find_map(|parse| parse(output))
}

/// A number with its unit, `1.25ms`, in seconds.
fn seconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_of_no_known_kind_tells_nothing() {
        for text in ["", "done", "{}", "[1]", "Latency 1", "  50%\n  99%", "{\"metrics\": 7}"] {
            assert_eq!(told(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text: String) {
            let _ = told(&text);
            let _ = told(&format!("Running 5s test @ x\n  50% {text}\n 99% {text}"));
            let _ = told(&format!("time for request: {text}"));
        }
    }
}
