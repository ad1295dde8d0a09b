//! Steering by load: what counts, what is chosen by it, and who is left out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is a test that failed")]

mod choosing;
mod counting;
mod everything;
mod flooding;
mod refusals;
mod reporting;
mod stalling;
