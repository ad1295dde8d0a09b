//! The command line of balancer: arguments, verbs, agents, and what people are shown.
//!
//! | step | modules |
//! | --- | --- |
//! | what was asked for | [`cli`], then a file of [`commands`] for each verb |
//! | what commands and `top` change in a running group | `operations`, which asks `rules` |
//! | the process that keeps a group up | `agent` |
//! | processes that it starts | `supervisor`, `handover`, [`user`], `worker` |
//! | figures for Prometheus | [`metrics`] |
//! | what is shown, and written without waiting for its reader | [`render`], `console`, `rates`, `output` |
//!
//! What is steered, and how, is in `balancer-steering`; what `compare` does is in `balancer-lab`.

mod admission;
mod agent;
mod bed;
pub mod cli;
pub mod commands;
pub mod console;
mod descriptors;
pub mod error;
mod experiment;
mod handover;
mod hindrance;
mod idle_grace;
mod log_lines;
pub mod metrics;
mod operations;
pub mod output;
mod parent;
mod rates;
pub mod render;
mod rules;
mod service;
mod supervisor;
mod target;
mod top;
pub mod user;
mod worker;
