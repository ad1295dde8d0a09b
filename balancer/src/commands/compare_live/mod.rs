//! `balancer compare ADDRESS` and `compare --load CMD -- COMMAND`: policies in turn on a server of the user's own,
//! with its own traffic or the load of the user's generator.

mod subject;

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use balancer_lab::{
    contender::Contender,
    live::{plan::Plan, result::Outcome, words},
};
use balancer_steering::{
    group::Protocol,
    options::{self, PolicyOptions},
    policy::Policy,
    policy_spec::PolicySpec,
    privilege,
    process::Identity,
    steering::{Steering, Store},
};
use serde::Serialize;

use self::subject::Subject;
use super::compare::{INTERRUPTED, Output};
use crate::{
    cli::{CompareArgs, LiveArgs},
    error::UsageError,
    experiment::{self, Ended, Progress, Run, Running, Setting, Stopping, Temporary},
    render::{policy::policy_line, say},
};

/// What takes turns unless other policies are named, as far as the group can have them.
const USUAL: [Policy; 4] =
    [Policy::Kernel, Policy::RoundRobin, Policy::LeastConnections, Policy::LeastRequests];

/// What is written as JSON.
#[derive(Serialize)]
struct Report<'a> {
    group: &'a str,
    address: SocketAddr,
    seed: u64,
    load: Option<&'a str>,
    #[serde(flatten)]
    outcome: &'a Outcome,
    blocks: &'a [balancer_lab::live::block::Block],
}

/// Compares, prints, and writes the file that was asked for.
pub fn compare(args: &CompareArgs, bpffs: &Path) -> Result<ExitCode> {
    privilege::require()?;
    let (live, store) = (&args.live, Store::at(bpffs));
    if live.address.is_some() && live.command.is_empty() && args.workers.is_some() {
        return Err(
            UsageError::new("--workers goes with COMMAND: what runs has its workers").into()
        );
    }
    let subject = Subject::find(live, &store)?;
    options::can_track().context("requests cannot be observed, and so not compared")?;
    let policies = policies(&args.policies, subject.options())?;
    let names: Vec<String> =
        policies.iter().map(|(policy, options)| policy_line(*policy, (*options).into())).collect();
    let plan = plan(args, policies.len())?;
    // Before minutes are spent on what cannot be written.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    if let Some(stakes) = subject.stakes().filter(|_| !live.yes) {
        confirm(&stakes, live, &plan, &names)?;
    }

    let (mut steering, temporary) = subject.steer(live, args.workers, bpffs)?;
    let group = steering.group()?;
    for (policy, _) in &policies {
        experiment::fits(&steering, *policy)??;
    }
    let address = reachable(group.identity.address).to_string();
    let load = live.load.as_ref().map(|command| command.replace("{address}", &address));
    let setting = Setting { plan, policies, max_worse: live.max_worse, load };
    let run = run(&store, &mut steering, &setting, names.clone())?;
    let members = steering.members().unwrap_or_default();
    // What was measured is told first.
    let given_back = temporary.map_or(Ok(()), Temporary::end);
    let weights = |slot| {
        let member = members.iter().find(|member| member.slot == slot);
        member.map_or(1, |member| member.weight.get())
    };
    let ended = run.ended.as_ref().map(ToString::to_string);
    let outcome = Outcome::of(&setting.plan, &names, &run.blocks, &weights, ended);
    say(format_args!("{}", words::report(&outcome)))?;
    if let Some(json) = json {
        let report = Report {
            group: steering.name(),
            address: group.identity.address,
            seed: setting.plan.seed,
            load: setting.load.as_deref(),
            outcome: &outcome,
            blocks: &run.blocks,
        };
        json.write(&(serde_json::to_string(&report).context("cannot write JSON")? + "\n"))?;
    }
    given_back?;
    Ok(match run.ended {
        None => ExitCode::SUCCESS,
        Some(Ended::Interrupted) => ExitCode::from(INTERRUPTED),
        Some(Ended::Superseded | Ended::Unfit(_) | Ended::Alarm { .. }) => ExitCode::FAILURE,
    })
}

/// What takes turns, with the options that the group has unless others are named.
fn policies(asked: &[Contender], own: PolicyOptions) -> Result<Vec<(Policy, PolicyOptions)>> {
    let check = |policy, options| options::check(policy, options, Protocol::Tcp, true);
    let mut policies = Vec::new();
    for contender in asked {
        let Contender::Policy(spec) = *contender else {
            return Err(UsageError::new(format_args!(
                "`{contender}` is no policy, so a server that runs cannot be switched to it"
            ))
            .into());
        };
        let options = match spec == PolicySpec::plain(spec.policy) {
            true => own,
            false => PolicyOptions { avoid_stalled: spec.options.avoid_stalled, ..own },
        };
        check(spec.policy, options)?;
        if !policies.contains(&(spec.policy, options)) {
            policies.push((spec.policy, options));
        }
    }
    if asked.is_empty() {
        let usual = USUAL.into_iter().map(|policy| (policy, own));
        policies = usual.filter(|(policy, options)| check(*policy, *options).is_ok()).collect();
    }
    if policies.len() < 2 {
        return Err(UsageError::new("name two policies at least; the first is the baseline").into());
    }
    Ok(policies)
}

fn plan(args: &CompareArgs, policies: usize) -> Result<Plan> {
    let live = &args.live;
    let block = live.block_time.0;
    let usual = if live.load.is_some() { Duration::ZERO } else { block / 4 };
    let burn_in = live.burn_in.map_or(usual, |time| time.0);
    if burn_in >= block {
        return Err(UsageError::new(format_args!(
            "nothing of a block would be left: the burn-in must be shorter than --block-time {}",
            live.block_time
        ))
        .into());
    }
    Ok(Plan { policies, rounds: live.blocks, block, burn_in, seed: args.seed })
}

/// Where a client on this host reaches a server.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Says what is going to be done, and asks whether it may.
fn confirm(
    [what, afterwards]: &[String; 2],
    live: &LiveArgs,
    plan: &Plan,
    names: &[String],
) -> Result<()> {
    let within = match live.load {
        None => format!("in about {}", words::span(plan.duration() + plan.block)),
        Some(_) => "each time for a run of the load generator,".to_owned(),
    };
    let what = format!(
        "{what} would be switched {} times {within} among: {}; afterwards, and at once if p99 rises to more \
         than {} times that of {}, {afterwards}. No connection is cut",
        plan.policies * plan.rounds + 1,
        names.join(", "),
        live.max_worse,
        names[0],
    );
    if !io::stdin().is_terminal() {
        return Err(UsageError::new(format_args!(
            "{what}. There is no terminal to ask on; say --yes if it may"
        ))
        .into());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{what}.\nGo on? [y/N] ").and_then(|()| stderr.flush()).context("cannot ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}

/// Runs all blocks. Whatever comes of them, what was in force is put back.
fn run(
    store: &Store,
    steering: &mut Steering,
    setting: &Setting,
    names: Vec<String>,
) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        // Before anything is changed that the end by a signal would leave.
        let stopping = Stopping::listen()?;
        let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
        let observation = store.observe()?;
        let experiment = steering.begin_experiment(own)?;
        let progress = Progress::new(&setting.plan, names);
        let running = Running { steering, experiment: &experiment, setting, progress, stopping };
        let run = running.run().await;
        let name = steering.name().to_owned();
        experiment.end(steering).with_context(|| {
            format!(
                "{name}: what was in force before cannot be put back; the next command tries again"
            )
        })?;
        drop(observation);
        run
    })
}
