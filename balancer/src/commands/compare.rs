//! `balancer compare`: runs a comparison, or reads one, and renders it.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use balancer_lab::{
    contender::{self, Contender, KERNEL},
    idle_inhibitor::IdleInhibitor,
    machine::Machine,
    read,
    report::Report,
    runner::{self, Plan, Progress},
    sandbox,
    scenario::{Scenario, standard},
};
use balancer_steering::{group::Protocol, kernel, options, policy_spec::PolicySpec, privilege};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::compare_live;
use crate::{bed::Supervised, cli::CompareArgs, error::UsageError, render::say};

/// The scenarios of `--quick`.
const QUICK: [&str; 4] = ["few", "blocking", "slow-worker", "stalled-worker"];

/// What a shell expects of a program that Ctrl-C ended.
pub(super) const INTERRUPTED: u8 = 130;

/// Runs or reads, prints, and writes the files that were asked for.
pub fn compare(args: &CompareArgs, bpffs: &Path) -> Result<ExitCode> {
    if args.live.address.is_some() || !args.live.command.is_empty() {
        return compare_live::compare(args, bpffs);
    }
    if args.list {
        for scenario in standard() {
            say(format_args!("{:<15} {}", scenario.name, scenario.about))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.from {
        let page = args.report.as_deref().map(Output::open).transpose()?;
        let json =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let report = read::report(&json).with_context(|| {
            format!("{} cannot be read as a report of `balancer compare`", path.display())
        })?;
        finish(&report, page, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (scenarios, contenders) = (scenarios(args)?, contenders(args));
    kernel::require(kernel::release())?;
    privilege::require()?;
    for contender in &contenders {
        if let Contender::Policy(PolicySpec { policy, options }) = *contender {
            options::check(policy, options, Protocol::Tcp, true)?;
        }
    }
    // Before minutes are spent on what cannot be written.
    let page = args.report.as_deref().map(Output::open).transpose()?;
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let plan = Plan {
        scenarios,
        contenders,
        rounds: args.trials,
        seed: args.seed,
        bpffs: bpffs.to_owned(),
    };
    sandbox::enter(bpffs)?;
    let awake = IdleInhibitor::keep()?;
    let report = run(&plan)?;
    drop(awake);
    finish(&report, page, json)?;
    if report.interrupted {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let trials = || report.scenarios.iter().flat_map(|compared| &compared.trials);
    if trials().all(|trial| trial.invalid.is_some()) {
        bail!("no trial is valid; the reasons are above");
    }
    Ok(ExitCode::SUCCESS)
}

fn scenarios(args: &CompareArgs) -> Result<Vec<Scenario>> {
    let all = standard();
    let asked: Vec<&str> = match args.quick {
        true => QUICK.to_vec(),
        false => args.scenarios.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = asked.iter().find(|name| !all.iter().any(|s| s.name == **name)) {
        let names: Vec<&str> = all.iter().map(|scenario| &*scenario.name).collect();
        return Err(UsageError::new(format_args!(
            "there is no scenario `{unknown}`; there are: {}",
            names.join(", ")
        ))
        .into());
    }
    let wanted = |s: &Scenario| asked.is_empty() || asked.contains(&&*s.name);
    let sized = |scenario: Scenario| match args.workers {
        Some(workers) => scenario.with_workers(workers),
        None => scenario,
    };
    Ok(all.into_iter().filter(wanted).map(sized).collect())
}

/// The kernel's hash is always among them, and nobody twice.
fn contenders(args: &CompareArgs) -> Vec<Contender> {
    let asked = match args.policies.as_slice() {
        [] if args.quick => &contender::QUICK,
        [] => contender::STANDARD.as_slice(),
        asked => asked,
    };
    let mut contenders = vec![KERNEL];
    for contender in asked {
        if !contenders.contains(contender) {
            contenders.push(*contender);
        }
    }
    contenders
}

fn run(plan: &Plan) -> Result<Report> {
    let machine = Machine::this()?;
    let mut bar = Bar::new(plan.duration(machine.cpus)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let report = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        let interrupted = async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        runner::run::<Supervised>(plan, machine, &mut bar, interrupted).await
    });
    bar.bar.finish_and_clear();
    report
}

/// A bar with the time left in a terminal, elsewhere a line a scenario; on standard error.
struct Bar {
    bar: ProgressBar,
    plain: bool,
    scenario: String,
}

impl Bar {
    fn new(expected: Duration) -> Self {
        let bar = ProgressBar::new(millis(expected));
        bar.enable_steady_tick(Duration::from_millis(500));
        let style = "{bar:30} {percent:>3} %  {eta} left  {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, plain: !stderr().is_terminal(), scenario: String::new() }
    }
}

impl Progress for Bar {
    fn trial(&mut self, scenario: &str, contender: Contender, round: usize) {
        self.bar.set_message(format!("{scenario}: {contender}, trial {}", round + 1));
        if self.plain && self.scenario != scenario {
            let _ = writeln!(stderr(), "comparing: {scenario}");
        }
        scenario.clone_into(&mut self.scenario);
    }

    fn passed(&mut self, expected: Duration) {
        self.bar.inc(millis(expected));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A file that can be written.
pub(super) struct Output {
    path: PathBuf,
    file: File,
}

impl Output {
    /// Opens it before anything is measured.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes it, and says so.
    pub(super) fn write(mut self, text: &str) -> Result<()> {
        let path = self.path.display();
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {path}"))?;
        say(format_args!("wrote {path}"))
    }
}

fn finish(report: &Report, page: Option<Output>, json: Option<Output>) -> Result<()> {
    say(format_args!("{}", balancer_lab::render::text(report)))?;
    if let Some(json) = json {
        let text = serde_json::to_string(report).context("cannot write JSON")?;
        json.write(&(text + "\n"))?;
    }
    page.map_or(Ok(()), |page| page.write(&balancer_lab::render::html(report)))
}
