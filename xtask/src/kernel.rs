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
    path::PathBuf,
    process::Command,
    str::FromStr,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::{boot::Outcome, chosen::CHOSEN, image::Image};
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
            .ok_or_else(|| format!("{text:?} is no series of kernels such as 6.12"))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Runs the suite, or what of it `args` selects, on each kernel; at the end it prints a line for each.
pub fn test(workspace: &Workspace, kernels: &[Series], args: &[OsString]) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!("the kernels under qemu are for x86_64, and what this machine builds is not");
    }
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
    binaries: Vec<TestBinary>,
}

/// A test binary, and what it is called with.
struct TestBinary {
    name: String,
    path: PathBuf,
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
        let selected = select(args, |name| all.iter().any(|(other, _)| other == name))?;
        let binaries = selected.into_iter().map(|(name, args)| {
            let (_, path) = all.iter().find(|(other, _)| *other == name).with_context(|| {
                format!("{name}, which kernel/chosen.rs names, is no file of tests")
            })?;
            Ok(TestBinary { name, path: path.clone(), args })
        });
        let binaries = binaries.collect::<Result<Vec<_>>>()?;
        if args.is_empty() {
            binaries.iter().try_for_each(TestBinary::has_all)?;
        }
        Ok(Self {
            tests: workspace.root.join("tests"),
            balancer,
            object: ebpf::overridden()?,
            binaries,
        })
    }
}

impl TestBinary {
    /// Checks that there is a test of each name that was chosen: libtest runs none, and is content.
    fn has_all(&self) -> Result<()> {
        let tests = command::capture(Command::new(&self.path).arg("--list"))?;
        match self.args.iter().find(|name| !tests.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                bail!("{name}, which kernel/chosen.rs names, is no test of {}", self.name)
            }
        }
    }
}

/// Which test binaries are run, and each with which arguments, by what was typed.
fn select(
    typed: &[OsString],
    is_binary: impl Fn(&str) -> bool,
) -> Result<Vec<(String, Vec<String>)>> {
    if typed.is_empty() {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        return Ok(CHOSEN.iter().map(|&(name, tests)| (name.to_owned(), owned(tests))).collect());
    }
    let words: Option<Vec<&str>> = typed.iter().map(|word| word.to_str()).collect();
    let words = words.context("an argument is no text")?;
    // What separates cargo's arguments from theirs separates nothing here.
    let words = words.into_iter().filter(|word| *word != "--").map(str::to_owned);
    let (mut names, args): (Vec<_>, Vec<_>) = words.partition(|word| is_binary(word));
    if names.is_empty() {
        names = CHOSEN.iter().map(|&(name, _)| name.to_owned()).collect();
    }
    Ok(names.into_iter().map(|name| (name, args.clone())).collect())
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

    fn selected(typed: &[&str]) -> Vec<(String, Vec<String>)> {
        let typed: Vec<OsString> = typed.iter().map(OsString::from).collect();
        select(&typed, |name| name == "churn").unwrap()
    }

    #[test]
    fn a_file_of_tests_is_told_from_the_arguments_of_its_binary() {
        let selected = selected(&["churn", "two_hundred", "--", "--nocapture"]);
        assert_eq!(
            selected,
            [("churn".to_owned(), vec!["two_hundred".to_owned(), "--nocapture".to_owned()])]
        );
    }

    #[test]
    fn what_was_chosen_is_run_until_something_is_asked_for() {
        let all = selected(&[]);
        assert_eq!(all.len(), CHOSEN.len());
        assert!(all.iter().zip(CHOSEN).all(|((_, args), (_, tests))| args == tests));
        let some = selected(&["a_thousand_members"]);
        assert_eq!(some.len(), CHOSEN.len());
        assert!(some.iter().all(|(_, args)| *args == ["a_thousand_members"]));
    }
}
