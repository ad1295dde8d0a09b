//! The `balancer` command: parses, dispatches, and prints what went wrong.

use std::process::ExitCode;

use balancer::{cli::Cli, commands, console, error};
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
    console::log_to_stderr(cli.log_level);
    commands::dispatch(cli).unwrap_or_else(|error| {
        eprintln!("balancer: {}", error::sentence(&error));
        ExitCode::from(error::exit_code(&error))
    })
}
