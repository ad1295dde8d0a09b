//! The JSON of `k6 run --summary-export /dev/stdout`: `http_req_duration`, in milliseconds. It has a p99 only
//! with `--summary-trend-stats` (`med,p(99)`).

use serde_json::Value;

use super::Told;

/// Its percentiles, if such an object is in the text; k6 prints more around it.
pub(super) fn told(output: &str) -> Option<Told> {
    let object = output.get(output.find('{')?..=output.rfind('}')?)?;
    let summary: Value = serde_json::from_str(object).ok()?;
    let trend = summary.get("metrics")?.get("http_req_duration")?;
    // With `handleSummary` the figures are one level below.
    let trend = trend.get("values").unwrap_or(trend);
    let at = |name| trend.get(name).and_then(Value::as_f64).map(|millis| millis / 1e3);
    Some(Told { by: "k6", p50: at("med").or_else(|| at("p(50)")), p99: at("p(99)") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
     execution: local
{
    "metrics": {
        "http_req_duration": {
            "avg": 20.61, "max": 31.78, "med": 20.5, "min": 20.1, "p(90)": 21.5, "p(95)": 21.9,
            "p(99)": 26.25
        },
        "http_reqs": {"count": 1538, "rate": 766.8}
    },
    "root_group": {"name": "", "path": "", "groups": {}, "checks": {}}
}
"#;

    #[test]
    fn percentiles_are_read_out_of_what_else_is_printed() {
        assert_eq!(told(SAMPLE), Some(Told { by: "k6", p50: Some(0.0205), p99: Some(0.02625) }));
    }

    #[test]
    fn the_form_with_values_is_read_and_a_p99_that_was_not_asked_for_is_none() {
        let text = r#"{"metrics": {"http_req_duration": {"values": {"med": 1.5}}}}"#;
        assert_eq!(told(text), Some(Told { by: "k6", p50: Some(0.0015), p99: None }));
    }
}
