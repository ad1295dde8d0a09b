//! Steering by load: what counts, what is chosen by it, and who is left out.

mod choosing;
mod counting;
mod everything;
mod exactness;
mod flooding;
mod least_requests;
mod refusals;
mod reporting;
mod stalling;
