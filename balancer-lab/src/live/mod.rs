//! Policies in turn on a server's own traffic: a switchback experiment. Pure; who switches and measures is
//! not here.
//!
//! Every round has a block for each policy, in an order that is drawn for each round. What changes with
//! the hour changes for all blocks of a round, so that policies are compared within rounds only.
//!
//! | step | modules |
//! | --- | --- |
//! | which policy when | [`plan`] |
//! | what one block measured | [`block`] |
//! | when to stop | [`guard`] |
//! | two policies against each other, by rounds | [`contrast`] |
//! | all of it in figures, and which worker is slow | [`result`], [`slow`] |
//! | the same in words | [`words`] |

pub mod block;
#[cfg(test)]
mod carried;
pub mod contrast;
pub mod guard;
pub mod plan;
pub mod result;
#[cfg(test)]
mod simulation;
pub mod slow;
pub mod words;
