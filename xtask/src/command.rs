//! Starting other programs: each is shown before it runs, and its failure names it.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Cargo's answer to "how do I run what I built?", for binaries that need root.
const RUN_WITH_SUDO: &str = r#"target."cfg(all())".runner = ["sudo", "-E"]"#;

/// The cargo that runs this program, at `root`.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    // What cargo told us about xtask itself would look to build scripts like a change.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

/// Whether this process may load programs and make network namespaces as it is.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Arguments that make cargo run test and bench binaries as root, while it builds as the caller.
pub fn as_root() -> &'static [&'static str] {
    if is_root() { &[] } else { &["--config", RUN_WITH_SUDO] }
}

/// A program that needs root, through sudo if need be.
pub fn root(program: &Path) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("-E").arg(program);
    sudo
}

/// Arguments for another program as typed after the verb: a leading `--` is that program's, but
/// clap takes it for itself.
pub fn as_typed(args: &[OsString]) -> Vec<OsString> {
    let dashes = env::args_os().nth(2).filter(|first| first == "--");
    dashes.into_iter().chain(args.iter().cloned()).collect()
}

/// Shows the command, runs it and fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let line = line(command);
    run_as(command, &format!("`{line}`"))
}

/// Runs a command that is too long to show; `what` is it in words.
pub fn run_as(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| {
        format!("could not start {} for {what}", command.get_program().display())
    })?;
    if !status.success() {
        bail!("{what} failed: {status}");
    }
    Ok(())
}

/// Runs the command without a word and returns what it printed.
pub fn capture(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{line}` printed something that is not UTF-8"))
}

/// Runs a `cargo build`, which shows its progress, and returns the path of the binary that it made.
pub fn build_binary(build: &mut Command, name: &str) -> Result<PathBuf> {
    let mut binaries = build_binaries(build)?.into_iter();
    let found = binaries.find_map(|(found, binary)| (found == name).then_some(binary));
    found.with_context(|| format!("`{}` did not build a binary {name}", line(build)))
}

/// As [`build_binary`], of all that it made, with their names.
pub fn build_binaries(build: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    let messages = capture(build.arg("--message-format=json-render-diagnostics"))?;
    let binary = |message: &str| {
        let message: Value = serde_json::from_str(message).ok()?;
        let name = message["target"]["name"].as_str()?;
        Some((name.to_owned(), message["executable"].as_str()?.into()))
    };
    Ok(messages.lines().filter_map(binary).collect())
}

/// Shows the command, and the variables set for it, as one could type it.
pub fn announce(command: &Command) {
    let variables = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={} ", name.to_string_lossy(), quoted(value?)))
    });
    eprintln!("$ {}{}", variables.collect::<String>(), line(command));
}

/// The command as one could type it.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program =
        if program.ends_with("cargo") { OsStr::new("cargo") } else { program.as_os_str() };
    let words: Vec<String> = [program].into_iter().chain(command.get_args()).map(quoted).collect();
    words.join(" ")
}

/// A word as a shell reads it.
pub fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_could_type_it() {
        let mut command = Command::new("/some/where/cargo");
        command.args(["test", "two words", "it's", ""]);
        assert_eq!(line(&command), r"cargo test 'two words' 'it'\''s' ''");
    }
}
