//! The JSON of `oha --output-format json` (earlier `oha --json`): `latencyPercentiles`, in seconds.

use serde::Deserialize;

use super::Told;

#[derive(Deserialize)]
struct Summary {
    #[serde(rename = "latencyPercentiles")]
    percentiles: Percentiles,
}

#[derive(Deserialize)]
struct Percentiles {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Its percentiles, if this is such an object.
pub(super) fn told(output: &str) -> Option<Told> {
    let Percentiles { p50, p99 } = serde_json::from_str::<Summary>(output).ok()?.percentiles;
    Some(Told { by: "oha", p50, p99 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{
  "summary": {"successRate": 1.0, "total": 2.0008, "slowest": 0.0312, "fastest": 0.0201,
    "average": 0.0206, "requestsPerSec": 773.1, "totalData": 15470, "sizePerRequest": 10,
    "sizePerSec": 7731.9},
  "responseTimeHistogram": {"0.0201": 1, "0.0212": 1400},
  "latencyPercentiles": {"p10": 0.0203, "p25": 0.0204, "p50": 0.0205, "p75": 0.0207,
    "p90": 0.0211, "p95": 0.0218, "p99": 0.0262, "p99.9": 0.0301, "p99.99": 0.0312},
  "statusCodeDistribution": {"200": 1547}
}"#;

    #[test]
    fn percentiles_are_read() {
        assert_eq!(told(SAMPLE), Some(Told { by: "oha", p50: Some(0.0205), p99: Some(0.0262) }));
    }

    #[test]
    fn of_no_answer_there_is_none() {
        let none = r#"{"latencyPercentiles": {"p50": null, "p99": null}}"#;
        assert_eq!(told(none), Some(Told { by: "oha", p50: None, p99: None }));
    }
}
