//! Texts that others chose: names of devices and commands, what workers print. A terminal would obey
//! what some of them hold, and root's terminal is a good one to be obeyed by. Pure.

use std::{borrow::Cow, fmt::Write as _, io::IsTerminal};

/// Whether a terminal may obey a character rather than show it: control characters, those of C1 too,
/// and what changes lines or the direction of what stands beside it.
pub fn is_obeyed(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name that others chose, within a line: what a terminal would obey is written out, as in `\u{1b}`.
pub fn printable(name: &str) -> Cow<'_, str> {
    escaped(name, is_obeyed)
}

/// A text of several lines, on its way to a terminal or to something else: what a terminal would obey,
/// but for the ends of lines and tabs, is written out there, and left as it is for everything else.
pub fn shown<'a>(text: &'a str, on: &impl IsTerminal) -> Cow<'a, str> {
    if on.is_terminal() { printable_lines(text) } else { Cow::Borrowed(text) }
}

/// As [`printable`], of several lines.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| is_obeyed(character) && !matches!(character, '\n' | '\t'))
}

/// JSON, which has what is not escaped yet in its strings only.
pub fn json(text: &str) -> Cow<'_, str> {
    replaced(text, is_obeyed, |escaped, character| {
        // All that is obeyed is within 16 bits. A String takes everything.
        let _ = write!(escaped, "\\u{:04x}", u32::from(character));
    })
}

fn escaped(text: &str, is_meant: impl Fn(char) -> bool) -> Cow<'_, str> {
    replaced(text, is_meant, |escaped, character| escaped.extend(character.escape_default()))
}

fn replaced(
    text: &str,
    is_meant: impl Fn(char) -> bool,
    replace: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_meant) {
        return Cow::Borrowed(text);
    }
    let mut all = String::with_capacity(text.len());
    for character in text.chars() {
        if is_meant(character) { replace(&mut all, character) } else { all.push(character) }
    }
    Cow::Owned(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_shown_with_what_a_terminal_would_obey_written_out() {
        let name = "ng\u{1b}[2Ji\u{9b}2Jnx: ü\n\t\u{7f}\u{202e}";
        let expected = r"ng\u{1b}[2Ji\u{9b}2Jnx: ü\n\t\u{7f}\u{202e}";
        assert_eq!(printable(name), expected);
        assert_eq!(printable("nginx: wörker/0"), "nginx: wörker/0");
    }

    #[test]
    fn of_several_lines_the_ends_and_tabs_stay() {
        assert_eq!(printable_lines("a\tb\n\u{1b}c\r\n"), "a\tb\n\\u{1b}c\\r\n");
    }

    #[test]
    fn what_is_no_terminal_gets_a_text_as_it_is() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(shown("\u{1b}[32mok", &file), "\u{1b}[32mok");
    }

    proptest! {
        #[test]
        fn json_means_the_same_and_has_nothing_that_is_obeyed(text: String) {
            let written = serde_json::to_string(&text).unwrap();
            let escaped = json(&written);
            prop_assert!(!escaped.contains(is_obeyed));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
