//! Arguments of what balancer starts itself as; nobody types them.

use clap::Args;

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
