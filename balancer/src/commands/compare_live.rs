//! `balancer compare ADDRESS`: policies in turn on a server that runs, with its own traffic or the load of the
//! user's generator.

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
    address::ServedAddress,
    group::{GroupSpec, Protocol},
    options::{self, PolicyOptions},
    policy::Policy,
    policy_spec::PolicySpec,
    privilege,
    process::Identity,
    steering::{Steering, Store},
};
use serde::Serialize;

use super::{
    compare::{INTERRUPTED, Output},
    detach::open_at,
};
use crate::{
    cli::CompareArgs,
    error::UsageError,
    experiment::{Ended, Progress, Run, Running, Setting, Stopping},
    render::{policy::policy_line, say},
    rules,
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
pub fn compare(args: &CompareArgs, address: ServedAddress, bpffs: &Path) -> Result<ExitCode> {
    privilege::require()?;
    let store = Store::at(bpffs);
    let mut steering = open_at(&store, address).with_context(|| {
        format!(
            "cannot compare on {address}; it must be steered first, which `balancer attach {address} \
             --policy kernel --once` does without changing any choice"
        )
    })?;
    steering.restore()?;
    let group = steering.group()?;
    if group.identity.protocol != Protocol::Tcp || !group.counted {
        bail!("only TCP groups whose connections are counted can be compared on");
    }
    options::can_track().context("requests cannot be observed, and so not compared")?;
    let setting = setting(args, &steering, &group)?;
    let names: Vec<String> = setting
        .policies
        .iter()
        .map(|(policy, options)| policy_line(*policy, (*options).into()))
        .collect();
    // Before minutes are spent on what cannot be written.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    confirm(args.live.yes, &steering, &group, &setting, &names)?;

    let run = run(&store, &mut steering, &setting, names.clone())?;
    let members = steering.members().unwrap_or_default();
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
    Ok(match run.ended {
        None => ExitCode::SUCCESS,
        Some(Ended::Interrupted) => ExitCode::from(INTERRUPTED),
        Some(Ended::Superseded | Ended::Alarm { .. }) => ExitCode::FAILURE,
    })
}

fn setting(args: &CompareArgs, steering: &Steering, group: &GroupSpec) -> Result<Setting> {
    let live = &args.live;
    let possible = |policy: Policy, options: PolicyOptions| {
        options::check(policy, options, Protocol::Tcp, group.counted)
    };
    let mut policies = Vec::new();
    for contender in &args.policies {
        let Contender::Policy(spec) = *contender else {
            return Err(UsageError::new(format_args!(
                "`{contender}` is no policy, so a server that runs cannot be switched to it"
            ))
            .into());
        };
        let options = match spec == PolicySpec::plain(spec.policy) {
            true => group.options,
            false => PolicyOptions { avoid_stalled: spec.options.avoid_stalled, ..group.options },
        };
        possible(spec.policy, options)?;
        if !policies.contains(&(spec.policy, options)) {
            policies.push((spec.policy, options));
        }
    }
    if args.policies.is_empty() {
        let usual = USUAL.into_iter().map(|policy| (policy, group.options));
        policies = usual.filter(|(policy, options)| possible(*policy, *options).is_ok()).collect();
    }
    if policies.len() < 2 {
        return Err(UsageError::new("name two policies at least; the first is the baseline").into());
    }
    let members = steering.snapshot()?.members;
    let reloading = group.agent.is_alive() && steering.agent_state()?.is_reloading();
    for (policy, _) in &policies {
        rules::check_policy(steering.name(), *policy, &members, reloading)?;
    }
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
    let address = reachable(group.identity.address).to_string();
    Ok(Setting {
        plan: Plan {
            policies: policies.len(),
            rounds: live.blocks,
            block,
            burn_in,
            seed: args.seed,
        },
        policies,
        max_worse: live.max_worse,
        load: live.load.as_ref().map(|command| command.replace("{address}", &address)),
    })
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
    yes: bool,
    steering: &Steering,
    group: &GroupSpec,
    setting: &Setting,
    names: &[String],
) -> Result<()> {
    if yes {
        return Ok(());
    }
    let (name, plan) = (steering.name(), &setting.plan);
    let what = format!(
        "the policy of {name} ({}) would be switched {} times in about {} among: {}; afterwards, and at once if \
         p99 rises to more than {} times that of {}, {} would be in force again. No connection is cut",
        group.identity,
        plan.policies * plan.rounds + 1,
        words::span(plan.duration() + plan.block),
        names.join(", "),
        setting.max_worse,
        names[0],
        policy_line(group.policy, group.options.into()),
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
