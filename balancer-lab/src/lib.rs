//! The same load under several policies, side by side with the kernel's own hash.
//!
//! | step | modules |
//! | --- | --- |
//! | what is compared, under which load | [`contender`], [`scenario`] |
//! | when which request is due (pure) | [`arrivals`] |
//! | what is done to workers | [`workers`], [`fault`] |
//! | requests, on time | [`generator`], [`pacer`], [`client`] |
//! | one trial, and all of them | [`trial`], [`measure`], [`runner`] |
//! | what was measured, raw | [`report`], [`read`] |
//! | policies in turn on a server's own traffic (pure) | [`live`]; the figures of load generators: [`generators`] |
//! | what that says (pure) | [`distribution`], [`load`], [`evenness`], [`ratio`], [`standing`], [`analysis`], [`verdict`] |

pub mod analysis;
pub mod arrivals;
pub mod client;
pub mod contender;
pub mod distribution;
pub mod evenness;
pub mod exclusive;
pub mod fault;
pub mod generator;
pub mod generators;
pub mod idle_inhibitor;
pub mod live;
pub mod load;
pub mod machine;
pub mod measure;
pub mod pacer;
pub mod ratio;
pub mod read;
pub mod render;
pub mod report;
pub mod runner;
pub mod sandbox;
pub mod scenario;
pub mod standing;
pub mod theory;
pub mod trial;
pub mod verdict;
pub mod work;
pub mod workers;
