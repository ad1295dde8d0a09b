//! What a user of the command line sees: every verb, and the agents of `run` and `attach`.

mod attach;
mod commands;
mod compare;
mod compare_live;
mod compare_own;
mod control;
mod cut_short;
mod documents;
mod drain;
mod examples;
mod generator;
mod groups;
mod hangup;
mod idle;
mod lifecycle;
mod meanwhile;
mod metrics;
mod never_waits;
mod refusals;
mod reload;
mod report;
mod slots;
mod takeover;
mod top;
mod user;
mod worker_terms;
