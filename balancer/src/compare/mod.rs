//! The same load under several policies, side by side with the kernel's own hash.

pub mod contender;
pub mod report;
pub mod scenario;
