//! The `balancer` command: parses, dispatches, and prints what went wrong.

use std::{io, process::ExitCode};

use balancer::{
    cli::Cli,
    commands, console, error,
    output::{self, Stream},
};
use balancer_steering::escape;

fn main() -> ExitCode {
    let cli = Cli::from_command_line();
    console::log_to_stderr(cli.log_level);
    let code = commands::dispatch(cli).unwrap_or_else(|error| {
        complain(&error::sentence(&error));
        ExitCode::from(error::exit_code(&error))
    });
    output::finish().map_or_else(
        |error| {
            eprintln!("balancer: cannot write all that there is to say: {error}");
            ExitCode::FAILURE
        },
        |()| code,
    )
}

fn complain(sentence: &str) {
    if !output::print(Stream::Err, format!("balancer: {sentence}\n")) {
        eprintln!("balancer: {}", escape::shown(sentence, &io::stderr()));
    }
}
