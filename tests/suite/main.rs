//! The integration tests, as one binary: linked once, and each test a process of its own under
//! `cargo nextest`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on is a test that failed"
)]

mod below_root;
mod command_line;
mod library;
