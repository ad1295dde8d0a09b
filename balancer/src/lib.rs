//! Steers new connections among the processes that share a port with `SO_REUSEPORT`.
//!
//! Data flows one way; each step is a module:
//!
//! | step | modules |
//! | --- | --- |
//! | what was asked for | [`cli`], then a file of [`commands`] a verb |
//! | words, checked | [`address`], [`weight`], [`policy`], [`tuning`], [`tuned`], [`group`], [`patience`] |
//! | the groups of this machine, whoever serves them | [`discovery`], [`listing`] |
//! | sockets and processes | [`socket`], [`process`], [`handover`], [`supervisor`], [`worker`] |
//! | servers that somebody else started | [`attachment`] |
//! | which slot at which position, and who is left out (pure) | [`mod@table`], [`warmth`], [`drain`] |
//! | maps, programs, pins | [`steering`], the only one that uses aya |
//! | what is known of a group (pure) | [`snapshot`], [`agent`] |
//! | shown to people | [`render`], [`console`] |
//! | can it work here | [`kernel`], [`privilege`] |
//!
//! ARCHITECTURE.md says why it is like this.

pub mod address;
pub mod agent;
pub mod attachment;
pub mod awake;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod console;
pub mod discovery;
pub mod drain;
pub mod error;
pub mod exclusive;
pub mod group;
pub mod handover;
pub mod kernel;
pub mod listing;
pub mod machine;
pub mod patience;
pub mod policy;
pub mod privilege;
pub mod process;
pub mod render;
pub mod sandbox;
pub mod snapshot;
pub mod socket;
pub mod stats;
pub mod steering;
pub mod supervisor;
pub mod table;
pub mod tracking;
pub mod tuned;
pub mod tuning;
pub mod user;
pub mod warmth;
pub mod weight;
pub mod work;
pub mod worker;
