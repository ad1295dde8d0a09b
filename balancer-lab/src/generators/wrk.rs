//! The text of `wrk --latency`, and of wrk2.

use super::{Told, seconds};

/// Its percentiles, if this is such a text.
pub(super) fn told(output: &str) -> Option<Told> {
    output.lines().find(|line| line.starts_with("Running ") && line.contains(" test @ "))?;
    let at = |percent: &[&str]| {
        output.lines().find_map(|line| {
            let (name, value) = line.trim().split_once(char::is_whitespace)?;
            percent.contains(&name).then(|| seconds(value.trim()))?
        })
    };
    Some(Told { by: "wrk", p50: at(&["50%", "50.000%"]), p99: at(&["99%", "99.000%"]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
Running 2s test @ http://127.0.0.1:8080/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    20.61ms    1.13ms  31.78ms   91.62%
    Req/Sec   771.05     39.93   818.00     85.00%
  Latency Distribution
     50%   20.42ms
     75%   20.81ms
     90%   21.53ms
     99%    1.02s 
  1538 requests in 2.01s, 186.24KB read
Requests/sec:    766.80
Transfer/sec:     92.85KB
";

    #[test]
    fn percentiles_are_read_with_their_units() {
        let told = told(SAMPLE).unwrap();
        assert!((told.p50.unwrap() - 0.02042).abs() < 1e-9);
        assert!((told.p99.unwrap() - 1.02).abs() < 1e-9);
    }

    #[test]
    fn without_percentiles_it_is_still_wrk() {
        let short = SAMPLE.lines().take(5).collect::<Vec<_>>().join("\n");
        assert_eq!(told(&short), Some(Told { by: "wrk", p50: None, p99: None }));
    }
}
