//! What every integration test stands on: a network namespace and a bpffs of its own, the real
//! binary in it, and a client that notes who answered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on is a test that failed"
)]

pub mod client;
pub mod group;
pub mod host;
pub mod line;
pub mod load;
pub mod running;
pub mod servers;
pub mod sockets;
pub mod tools;

pub use self::{
    client::Answer,
    group::TestGroup,
    host::Host,
    running::Running,
    tools::{fifo, has_open, lacking, needs_kernel, nft, there},
};
