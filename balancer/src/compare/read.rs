//! Reads a comparison back.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::report::{Report, SCHEMA};

/// What every version of the form has.
#[derive(Deserialize)]
struct Versioned {
    schema: u32,
}

/// Reads a comparison from JSON.
///
/// # Errors
/// Where it is no comparison, or one of a form that this build does not know.
pub fn report(json: &str) -> Result<Report> {
    let Versioned { schema } =
        serde_json::from_str(json).context("this is no comparison of balancer")?;
    ensure!(
        schema == SCHEMA,
        "this comparison is of version {schema}, and this balancer reads version {SCHEMA}"
    );
    serde_json::from_str(json).context("this comparison is damaged")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::compare::contender::STANDARD;

    /// Two scenarios, four contenders, six rounds, with trials that do not count and requests
    /// without an answer.
    pub fn example() -> Report {
        report(include_str!("../../tests/fixtures/compare.json")).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut written = example();
        written.scenarios[0].without = written.contenders[2..].to_vec();
        written.contenders.extend(STANDARD);
        for read in [example(), written] {
            assert_eq!(report(&serde_json::to_string(&read).unwrap()).unwrap(), read);
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_and_both_are_named() {
        // A later form need not look like this one.
        let refusal = report(r#"{"schema": 99, "rounds": "many"}"#).unwrap_err().to_string();
        assert_eq!(refusal, "this comparison is of version 99, and this balancer reads version 1");
    }

    #[test]
    fn what_is_no_comparison_is_refused() {
        for other in ["", "[]", r#"{"policy": "hash"}"#] {
            assert!(report(other).unwrap_err().to_string().contains("no comparison"), "{other}");
        }
        let damaged = report(r#"{"schema": 1, "seed": "x"}"#).unwrap_err();
        assert!(format!("{damaged:#}").contains("damaged: invalid type"), "{damaged:#}");
    }
}
