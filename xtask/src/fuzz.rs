//! `cargo xtask fuzz`: hostile input for every parser, by libFuzzer, on the stable toolchain.
//!
//! The targets and their corpora lie as cargo-fuzz has them. What it would add is a flag of nightly's
//! for AddressSanitizer; without that, the flags are few, and all of them stable.

mod outcome;

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::outcome::Outcome;
use crate::{command, workspace::Workspace};

/// What makes LLVM count which ways a program took, and show what it compared.
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// An input that takes longer is a finding: seconds, on a machine that does other things too.
const PATIENCE: u32 = 20;

/// As is one that takes more memory: MiB.
const MEMORY: u32 = 1024;

/// Put hostile input to every parser of balancer, one target per CPU at a time
#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz
  cargo xtask fuzz report --seconds 600 --keep
  cargo xtask fuzz report --input target/fuzz/artifacts/report/crash-…")]
pub struct Options {
    /// Run only this target; see fuzz/fuzz_targets
    target: Option<String>,

    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// Add inputs that cover something new to fuzz/corpus
    #[arg(long)]
    keep: bool,

    /// Run the target on this input only
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with = "keep")]
    input: Option<PathBuf>,
}

/// A target, built, and where its inputs are.
struct Target {
    name: String,
    binary: PathBuf,
    /// Kept in git.
    seeds: PathBuf,
    /// What runs on this machine have added to them.
    grown: PathBuf,
    /// What failed.
    artifacts: PathBuf,
}

/// Runs the verb.
pub fn fuzz(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut targets = build(workspace)?;
    if let Some(wanted) = &options.target {
        let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
        targets.retain(|target| target.name == *wanted);
        if targets.is_empty() {
            bail!("there is no fuzz target `{wanted}`; choose from {}", names.join(", "));
        }
    }
    if let Some(input) = &options.input {
        let input = fs::canonicalize(input)
            .with_context(|| format!("could not find the input {}", input.display()))?;
        return targets.iter().try_for_each(|target| command::run(target.command().arg(&input)));
    }
    let count = targets.len();
    let failed = side_by_side(targets, |target| {
        let outcome = target.run(options.seconds)?;
        println!("{:<14} {outcome}", target.name);
        if let Some(failure) = &outcome.failure {
            let (name, log) = (&target.name, target.log());
            println!("{failure}\nits whole output: {}", log.display());
            if let Some(input) = &outcome.input {
                println!("to reproduce: cargo xtask fuzz {name} --input {input}");
            }
        } else if options.keep {
            target.keep()?;
        }
        Ok(outcome.failure.is_some())
    })?;
    if failed > 0 {
        bail!("{failed} of {count} fuzz targets failed; see above");
    }
    Ok(())
}

fn build(workspace: &Workspace) -> Result<Vec<Target>> {
    let versions = command::capture(workspace.cargo().arg("-vV"))?;
    let host = versions.lines().find_map(|line| line.strip_prefix("host: "));
    let host =
        host.context("`cargo -vV` does not name the host; is this cargo older than 1.90?")?;
    // Its own, because other flags than the host's would make cargo build everything anew in turns.
    let home = workspace.target.join("fuzz");
    let mut build = workspace.cargo();
    build.args(["build", "--profile", "fuzz", "--package", "balancer-fuzz", "--bins"]);
    // With the target named, build scripts and macros are spared the flags, which they would not link with.
    build.args(["--target", host]).arg("--target-dir").arg(&home).env("RUSTFLAGS", FLAGS.join(" "));
    command::announce(&build);
    let mut binaries = command::build_binaries(&mut build)?;
    binaries.sort();
    let target = |(name, binary): (String, PathBuf)| Target {
        seeds: workspace.root.join("fuzz/corpus").join(&name),
        grown: home.join("corpus").join(&name),
        artifacts: home.join("artifacts").join(&name),
        name,
        binary,
    };
    Ok(binaries.into_iter().map(target).collect())
}

/// As many at a time as there are CPUs; returns of how many it was true.
fn side_by_side<T: Send>(work: Vec<T>, run: impl Fn(&T) -> Result<bool> + Sync) -> Result<usize> {
    let cpus = thread::available_parallelism().map_or(1, usize::from).min(work.len());
    let queue = Mutex::new(VecDeque::from(work));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let worker = || {
        let mut count = 0;
        while let Some(item) = next() {
            count += usize::from(run(&item)?);
        }
        Ok(count)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cpus).map(|_| scope.spawn(worker)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Result<usize>>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).sum()
    })
}

impl Target {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(format!("-timeout={PATIENCE}")).arg(format!("-rss_limit_mb={MEMORY}"));
        command.arg(format!("-artifact_prefix={}/", self.artifacts.display()));
        command
    }

    fn log(&self) -> PathBuf {
        self.artifacts.join("log")
    }

    fn run(&self, seconds: u32) -> Result<Outcome> {
        for directory in [&self.grown, &self.artifacts] {
            make(directory)?;
        }
        let mut command = self.command();
        command.args([format!("-max_total_time={seconds}"), "-print_final_stats=1".to_owned()]);
        // What is new goes into the first.
        command.arg(&self.grown).arg(&self.seeds);
        let output = command
            .output()
            .with_context(|| format!("could not start the target {}", self.name))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let log = self.log();
        fs::write(&log, &*said).with_context(|| format!("could not write {}", log.display()))?;
        Ok(Outcome::of(&said, output.status.success()))
    }

    fn keep(&self) -> Result<()> {
        make(&self.seeds)?;
        let mut command = self.command();
        command.arg("-merge=1").args([&self.seeds, &self.grown]);
        let name = &self.name;
        let output = command.output().with_context(|| format!("could not start {name}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("could not add to the corpus of {name}: {}\n{said}", output.status);
        }
        Ok(())
    }
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("could not make the directory {}", directory.display()))
}
