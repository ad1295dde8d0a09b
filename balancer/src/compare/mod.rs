//! The same load under several policies, side by side with the kernel's own hash.

pub mod analysis;
pub mod contender;
pub mod distribution;
pub mod evenness;
pub mod ratio;
pub mod read;
pub mod report;
pub mod scenario;
pub mod verdict;
