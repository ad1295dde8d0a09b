//! How far it is: one line of a terminal, nothing elsewhere.

use std::{
    fmt::Display,
    io::{IsTerminal as _, stderr},
};

const CLEAR_LINE: &str = "\r\x1b[K";

/// Shows a line in place of the last.
pub fn show(line: impl Display) {
    if stderr().is_terminal() {
        eprint!("{CLEAR_LINE}{line}");
    }
}

/// Takes the last line away.
pub fn clear() {
    show("");
}
