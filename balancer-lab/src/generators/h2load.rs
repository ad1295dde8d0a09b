//! The text of `h2load` (nghttp2): a table of minimum, maximum, mean and deviation. Percentiles are read if
//! its head has columns `median` and `p99`.

use super::{Told, seconds};

/// Its percentiles, if this is such a text; without such columns it tells nothing of them.
pub(super) fn told(output: &str) -> Option<Told> {
    let mut lines = output.lines();
    let mut head: Vec<&str> = Vec::new();
    let row = lines.find_map(|line| match line.strip_prefix("time for request:") {
        Some(row) => Some(row),
        None => {
            head = line.split_whitespace().collect();
            None
        }
    })?;
    let cells: Vec<&str> = row.split_whitespace().collect();
    let at = |name| cells.get(head.iter().position(|column| *column == name)?).copied();
    let time = |name| seconds(at(name)?);
    Some(Told { by: "h2load", p50: time("median"), p99: time("p99") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_percentiles_is_known_and_tells_none() {
        let sample = "\
finished in 2.01s, 773.00 req/s, 92.85KB/s
requests: 1546 total, 1546 started, 1546 done, 1546 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 1546 2xx, 0 3xx, 0 4xx, 0 5xx
                     min         max         mean         sd        +/- sd
time for request:    20.10ms     31.78ms     20.61ms      1.13ms    91.62%
time for connect:      102us       410us       210us        80us    75.00%
";
        assert_eq!(told(sample), Some(Told { by: "h2load", p50: None, p99: None }));
    }

    #[test]
    fn percentiles_are_read_by_the_head_of_their_column() {
        let sample = "\
                     min         max         median      p95         p99         mean         sd
time for request:    20.10ms     31.78ms     20.50ms     21.00ms     26.25ms     20.61ms      1.13ms
";
        let told = told(sample).unwrap();
        assert!((told.p50.unwrap() - 0.0205).abs() < 1e-9);
        assert!((told.p99.unwrap() - 0.02625).abs() < 1e-9);
    }
}
