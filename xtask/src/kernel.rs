//! `cargo xtask test --kernel`: the suite on other kernels than this machine's: Debian's images,
//! booted by qemu's software emulation, with the test binaries in an initramfs.

mod boot;
mod image;
mod initramfs;

use std::{
    ffi::OsString,
    fmt,
    panic::resume_unwind,
    path::PathBuf,
    process::Command,
    str::FromStr,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::{boot::Outcome, image::Image};
use crate::{command, ebpf, workspace::Workspace};

/// The test binaries that are not run there, and why. All others are, new ones too.
const LEFT_OUT: [(&str, &str); 5] = [
    ("compare", "it measures, and emulated time measures nothing"),
    ("examples", "it needs Go, nginx, gunicorn and nsd"),
    ("generator", "it measures"),
    ("object", "it reads the object, and needs no kernel"),
    ("report", "it needs a browser, and no kernel"),
];

/// A kernel's series, such as 6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    major: u32,
    minor: u32,
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('.');
        numbers
            .and_then(|(major, minor)| {
                Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
            })
            .ok_or_else(|| format!("{text:?} is no series of kernels such as 6.12"))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Runs the suite, or what of it `args` selects, on each of the kernels; one line a kernel at the end.
pub fn test(workspace: &Workspace, kernels: &[Series], args: &[OsString]) -> Result<()> {
    let cache = workspace.target.join("kernels");
    let images: Vec<Image> =
        kernels.iter().map(|&series| image::find(&cache, series)).collect::<Result<_>>()?;
    let suite = Suite::build(workspace, args)?;
    let initramfs = initramfs::make(&cache, &suite, &images)?;

    // Side by side: each has one CPU.
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let run = |image| boot::run(&cache, image, &initramfs);
        let running: Vec<_> = images.iter().map(|image| scope.spawn(move || run(image))).collect();
        let ended = running.into_iter().map(ScopedJoinHandle::join);
        ended
            .map(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Result<_>>()
    })?;
    println!();
    for outcome in &outcomes {
        println!("{outcome}");
    }
    match outcomes.iter().filter(|outcome| !outcome.is_good()).count() {
        0 => Ok(()),
        failed => bail!("the suite failed on {failed} of {} kernels; see above", outcomes.len()),
    }
}

/// What is run on a kernel.
struct Suite {
    /// The directory that test binaries know as their crate's.
    tests: PathBuf,
    balancer: PathBuf,
    /// An object to load instead of the one inside balancer.
    object: Option<PathBuf>,
    /// The test binaries, by name.
    binaries: Vec<(String, PathBuf)>,
    /// Their arguments.
    args: Vec<String>,
}

impl Suite {
    fn build(workspace: &Workspace, args: &[OsString]) -> Result<Self> {
        let mut build = workspace.cargo();
        build.args(["build", "-p", "balancer"]);
        command::announce(&build);
        let balancer = command::build_binary(&mut build, "balancer")?;

        let mut build = workspace.cargo();
        build.args(["test", "-p", "balancer-tests", "--no-run"]);
        command::announce(&build);
        let all = test_binaries(&mut build)?;
        let left_out = |name: &str| LEFT_OUT.iter().any(|(other, _)| *other == name);
        let (names, args) = select(args, |name| all.iter().any(|(other, _)| other == name))?;
        if let Some((name, why)) = LEFT_OUT.iter().find(|(name, _)| names.iter().any(|n| n == name))
        {
            bail!("{name} is not run on other kernels: {why}");
        }
        let chosen = |name: &String| names.is_empty() || names.contains(name);
        let binaries =
            all.into_iter().filter(|(name, _)| chosen(name) && !left_out(name)).collect();
        Ok(Self {
            tests: workspace.root.join("tests"),
            balancer,
            object: ebpf::overridden()?,
            binaries,
            args,
        })
    }
}

/// Of what was typed: which words name test binaries, and which are for these binaries.
fn select(
    args: &[OsString],
    is_binary: impl Fn(&str) -> bool,
) -> Result<(Vec<String>, Vec<String>)> {
    let words: Option<Vec<&str>> = args.iter().map(|arg| arg.to_str()).collect();
    let words = words.context("an argument is no text")?;
    // What separates cargo's arguments from theirs separates nothing here.
    let words = words.into_iter().filter(|word| *word != "--").map(str::to_owned);
    Ok(words.partition(|word| is_binary(word)))
}

/// Builds the integration tests, and returns where the binary of each is.
fn test_binaries(build: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    let messages = command::capture(build.arg("--message-format=json-render-diagnostics"))?;
    let binaries = messages.lines().filter_map(|message| {
        let message: Value = serde_json::from_str(message).ok()?;
        let (name, path) = (message["target"]["name"].as_str()?, message["executable"].as_str()?);
        (message["target"]["kind"][0] == "test").then(|| (name.to_owned(), PathBuf::from(path)))
    });
    let mut binaries: Vec<_> = binaries.collect();
    binaries.sort();
    Ok(binaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_two_numbers() {
        assert_eq!("6.12".parse(), Ok(Series { major: 6, minor: 12 }));
        for text in ["6", "6.", "6.12.1", "six", "6.1-rc"] {
            assert!(text.parse::<Series>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_names_of_test_binaries_are_told_from_their_arguments() {
        let args = ["policies", "a_draining", "--", "--nocapture"].map(OsString::from);
        let (names, rest) = select(&args, |name| name == "policies").unwrap();
        assert_eq!(names, ["policies"]);
        assert_eq!(rest, ["a_draining", "--nocapture"]);
    }
}
