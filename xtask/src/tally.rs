//! How many tests ended how, by what test binaries print.

use std::fmt;

/// What a test prints that leaves at once, for want of something.
const SKIPPED: &str = "SKIPPED: ";

/// How many tests ended how.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that test binaries count as passed; some of them left at once.
    ok: u32,
    failed: u32,
    ignored: u32,
    skipped: u32,
}

impl Tally {
    /// Counts a line that a test binary printed.
    pub fn add_line(&mut self, line: &str) {
        if line.contains(SKIPPED) {
            self.skipped += 1;
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.add_result(counts);
        }
    }

    /// Counts the last line of a test binary.
    fn add_result(&mut self, counts: &str) {
        let words: Vec<&str> = counts.split([' ', ';']).collect();
        for pair in words.windows(2) {
            let count = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" => self.ok += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }

    /// Whether there was no test at all.
    pub fn is_empty(&self) -> bool {
        self.ok + self.failed == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.ok.saturating_sub(self.skipped);
        write!(
            f,
            "{passed} passed, {} failed, {} skipped",
            self.failed,
            self.ignored + self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> String {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.add_line(line));
        tally.to_string()
    }

    #[test]
    fn the_last_lines_of_test_binaries_are_added_up() {
        let one = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; \
                   0 filtered out; finished in 0.01s";
        let two = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(tally(&[one, two]), "14 passed, 3 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_left_at_once_has_not_passed() {
        let lines = [
            "test one ... SKIPPED: go is not installed",
            "ok",
            "test result: ok. 2 passed; 0 failed; 0 ignored",
        ];
        assert_eq!(tally(&lines), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn other_lines_are_not_counted() {
        assert_eq!(tally(&["test a_test ... ok", "running 12 tests"]), tally(&[]));
    }
}
