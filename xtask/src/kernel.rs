//! `cargo xtask test --kernel`: the suite on other kernels than this machine's: Debian's images,
//! booted by qemu's software emulation, with the test binaries in an initramfs.

mod boot;
mod chosen;
mod image;
mod initramfs;

use std::{
    env,
    ffi::OsString,
    fmt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, Result, bail};

use self::{boot::Outcome, chosen::chosen, image::Image};
use crate::{command, ebpf, workspace::Workspace};

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
            .ok_or_else(|| format!("{text:?} is not a series of kernels, such as 6.12"))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Runs the suite, or what of it `args` selects, on each kernel, with so many CPUs; at the end it prints
/// a line for each.
pub fn test(workspace: &Workspace, kernels: &[Series], cpus: u8, args: &[OsString]) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!(
            "the kernels under qemu are for x86_64, and this machine builds for another architecture"
        );
    }
    let cache = workspace.target.join("kernels");
    let images: Vec<Image> =
        kernels.iter().map(|&series| image::find(&cache, series)).collect::<Result<_>>()?;
    let suite = Suite::build(workspace, cpus, args)?;
    let initramfs = initramfs::make(&cache, &suite, &images)?;

    // Side by side: each takes one CPU of this machine, however many it emulates.
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let run = |image| boot::run(&cache, image, cpus, &initramfs);
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
    /// The directory that the test binary knows as its crate's.
    tests: PathBuf,
    balancer: PathBuf,
    /// An object to load instead of the one inside balancer.
    object: Option<PathBuf>,
    /// The test binary, and what it is called with.
    binary: PathBuf,
    args: Vec<String>,
}

impl Suite {
    fn build(workspace: &Workspace, cpus: u8, typed: &[OsString]) -> Result<Self> {
        let mut build = workspace.cargo();
        build.args(["build", "-p", "balancer"]);
        command::announce(&build);
        let balancer = command::build_binary(&mut build, "balancer")?;

        let mut build = workspace.cargo();
        build.args(["test", "-p", "balancer-tests", "--test", "suite", "--no-run"]);
        command::announce(&build);
        let binary = command::build_binary(&mut build, "suite")?;
        let args = select(typed, cpus)?;
        if typed.is_empty() {
            has_all(&binary, &args)?;
        }
        let tests = workspace.root.join("tests");
        Ok(Self { tests, balancer, object: ebpf::overridden()?, binary, args })
    }
}

/// Checks that there is a test of each name that was chosen: libtest runs none, and is content.
fn has_all(binary: &Path, names: &[String]) -> Result<()> {
    let tests = command::capture(Command::new(binary).arg("--list"))?;
    match names.iter().find(|name| !tests.contains(*name)) {
        None => Ok(()),
        Some(name) => bail!("there is no test {name}, which kernel/chosen.rs names"),
    }
}

/// What the test binary is called with, by what was typed.
fn select(typed: &[OsString], cpus: u8) -> Result<Vec<String>> {
    if typed.is_empty() {
        return Ok(chosen(cpus).iter().map(|&name| name.to_owned()).collect());
    }
    let words: Option<Vec<&str>> = typed.iter().map(|word| word.to_str()).collect();
    let words = words.context("an argument is not UTF-8")?;
    // What separates cargo's arguments from the binary's separates nothing here.
    Ok(words.into_iter().filter(|word| *word != "--").map(str::to_owned).collect())
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
    fn without_a_word_the_chosen_tests_run_and_otherwise_those_that_were_typed() {
        assert_eq!(select(&[], 1).unwrap(), chosen(1));
        assert_eq!(select(&[], 4).unwrap(), chosen(4));
        let typed = ["churn::", "--", "--nocapture"].map(OsString::from);
        assert_eq!(select(&typed, 1).unwrap(), ["churn::", "--nocapture"]);
    }
}
