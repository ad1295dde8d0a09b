//! A comparison's JSON, as `compare --from` reads it: refused, or written again as it was read, and
//! shown in bounded memory, with nothing in it that a terminal or a browser would obey.

#![no_main]

use balancer_lab::{read, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &str| {
    let Ok(report) = read::report(json) else { return };
    let Ok(written) = serde_json::to_string(&report) else { panic!("{report:?} is not written") };
    assert_eq!(read::report(&written).ok(), Some(report.clone()));
    let text = render::text(&report);
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    let page = render::html(&report);
    assert!(page.ends_with("</html>") && !page.contains("<script"));
});
