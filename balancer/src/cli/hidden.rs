//! Arguments of what balancer starts itself as; nobody types them.

use std::ffi::OsString;

use clap::{Args, value_parser};

use crate::user::User;

/// Arguments of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Its slot in the group
    #[arg(long)]
    pub slot: u32,

    /// The group's name
    #[arg(long)]
    pub group: String,

    /// Whose it becomes
    #[arg(long)]
    pub user: Option<User>,

    /// How it behaves where it is compared
    #[command(flatten)]
    pub compared: ComparedArgs,
}

/// How a worker behaves in a comparison; `balancer run` uses none of it.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ComparedArgs {
    /// Do the work that a request's path asks for, so many times as long; end with the agent
    #[arg(long, value_name = "TIMES")]
    pub work: Option<u32>,

    /// Others wait on the same socket
    #[arg(long)]
    pub shared: bool,
}

/// Arguments of `exec-with-socket`.
#[derive(Debug, Args)]
pub struct ExecWithSocketArgs {
    /// A descriptor to report on
    #[arg(long, value_parser = value_parser!(i32).range(0..))]
    pub report: i32,

    /// A descriptor to say its load in
    #[arg(long, value_parser = value_parser!(i32).range(0..))]
    pub load: Option<i32>,

    /// Its slot
    #[arg(long)]
    pub slot: u32,

    /// The group's name
    #[arg(long)]
    pub name: String,

    /// What to become
    #[arg(last = true)]
    pub command: Vec<OsString>,
}
