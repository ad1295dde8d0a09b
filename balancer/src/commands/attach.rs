//! `balancer attach`: steers servers that are already running, and watches for new ones until told
//! to stop.

use std::{collections::HashMap, path::Path, thread};

use anyhow::{Context as _, Result, anyhow};
use balancer_steering::{
    adoption::{Admits, Attachment},
    discovery::{self, Cookies, FoundGroup, GroupWatcher, Netns},
    existing,
    group::{self, GroupSpec, Protocol},
    kernel, options,
    policy::Policy,
    privilege,
    process::Identity,
    steering::{LOG_DEBUG, Logs, Member, Steering, Store},
};
use tokio::runtime::Runtime;

use crate::{
    admission::Admission,
    agent::{Adopted, Ending, Signals, keep_up, warn_if_unpinned},
    cli::{AttachArgs, LogLevel},
    commands::{claim, takeover},
    console::Console,
    error::{UsageError, with_remedy},
    log_lines, render,
    target::{Target, Unclear, remedy},
};

/// Attaches; then, unless once is enough, runs until SIGINT, SIGTERM or SIGHUP.
pub fn attach(args: &AttachArgs, bpffs: &Path, log_level: LogLevel) -> Result<()> {
    if let Some(name) = &args.name {
        claim::check_name(name)?;
    }
    kernel::require(kernel::release())?;
    privilege::require()?;
    let netns = args.netns.as_ref().map_or_else(Netns::own, Netns::open)?;
    let target = Target { address: args.address, udp: args.udp, netns: args.netns.as_ref() };
    let found = find(&netns, target)?;
    let policy = args.policy.unwrap_or(Policy::RoundRobin);
    let options = args.options.options();
    let udp = found.identity.protocol == Protocol::Udp;
    let flows = args.flow.flows().filter(|_| udp);
    let counted = if udp { flows.is_some() } else { !args.options.no_count };
    options::check(policy, options, found.identity.protocol, counted)?;
    let store = Store::prepare(bpffs).map_err(with_remedy)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let _inside = runtime.enter();
    // Before anything is attached that the end by a signal would leave behind.
    let signals = if args.once { None } else { Some(Signals::listen()?) };
    let default = group::default_name(found.identity.protocol, found.identity.address);
    let log_level = if log_level == LogLevel::Debug { LOG_DEBUG } else { 0 };
    let admits = |members: &dyn Fn(u64) -> bool| {
        let members = found.sockets.iter().filter(|socket| members(socket.cookie));
        let commands = members.filter_map(|socket| Some(socket.worker.as_ref()?.command.clone()));
        let admission = Admission::new(args.admit, commands);
        Box::new(move |command: &str| admission.admits(command)) as Admits
    };
    let group_watcher = GroupWatcher::new(netns, &found);
    let holders = found.sockets.iter().flat_map(|socket| &socket.holders);
    let waited = existing::waiting(&found.identity, holders.map(|holder| holder.process))?;
    let (attachment, logs) = if args.takeover {
        let name = args.name.as_deref();
        let (mut steering, group) =
            takeover::take_over(&store, &found.identity, name, &default, true)?;
        takeover::note_log_level(&group, log_level);
        takeover::switch(&mut steering, args.policy, options)?;
        let (logs, members) = (steering.logs()?, steering.members()?);
        // Others may have been held back.
        let admits = admits(&|cookie| members.iter().any(|m| m.cookie == cookie));
        (Attachment::of(steering, group.identity, group_watcher, admits), logs)
    } else {
        claim::refuse_steered(&store, &found.identity)?;
        let name = claim::name(&store, args.name.as_deref(), &found.identity)?;
        let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
        let group = GroupSpec {
            identity: found.identity,
            policy,
            options,
            agent: if args.once { Identity { pid: 0, start: 0 } } else { own },
            log_level,
            adopted: true,
            replaced: false,
            counted,
            flows,
            index: 0,
        };
        let admits = admits(&|_| true);
        Attachment::begin(&store, &name, &group, &found, group_watcher, args.replace, admits)
            .map_err(with_remedy)?
    };
    if let Some(signals) = signals {
        return stay(&runtime, signals, attachment, logs, &waited, args.quiet, &store);
    }
    let line = settle_in(attachment.steering(), &waited)?;
    if args.quiet { Ok(()) } else { render::say(format_args!("{line}")) }
}

/// Counts what was there before; what to say of the group.
fn settle_in(steering: &Steering, waited: &Cookies) -> Result<String> {
    match existing::count(steering, waited) {
        Ok(found) => found.shortcomings().for_each(|line| tracing::warn!("{line}")),
        Err(error) => {
            tracing::warn!("not all connections that were already open are counted: {error:#}");
        }
    }
    if !waited.is_empty() {
        unattended(steering)?.iter().for_each(|line| tracing::warn!("{line}"));
    }
    if let Some(shortcoming) = options::shortcoming(steering.group()?.policy) {
        tracing::warn!("{shortcoming}");
    }
    warn_if_unpinned(steering)?;
    let (group, members, name) = (steering.group()?, steering.members()?.len(), steering.name());
    let (identity, policy) = (group.identity, group.policy.name());
    Ok(format!("steering {identity}, policy {policy}, {members} members, group {name}"))
}

/// Members at whose sockets connections wait of which none is accepted for a while, in words.
fn unattended(steering: &Steering) -> Result<Vec<String>> {
    let (group, members) = (steering.group()?.identity, steering.members()?);
    let queues = || discovery::queues(&group, members.iter().map(|member| member.worker));
    let before = queues()?;
    thread::sleep(options::STALL);
    let now = queues()?;
    let waiting = |all: &HashMap<u64, u32>, cookie| all.get(&cookie).copied().unwrap_or_default();
    let line = |member: &Member| {
        let (then, now) = (waiting(&before, member.cookie), waiting(&now, member.cookie));
        (then > 0 && now >= then).then(|| {
            format!(
                "{now} connections wait at the socket of PID {} (slot {}), and none was accepted within \
                 {} ms; check that its process accepts",
                member.worker.pid,
                member.slot,
                options::STALL.as_millis()
            )
        })
    };
    Ok(members.iter().filter_map(line).collect())
}

/// Lines of the live view for servers that come later.
const ROOM: usize = 4;

/// The group that is meant.
pub(super) fn find(netns: &Netns, target: Target<'_>) -> Result<FoundGroup> {
    let groups = discovery::groups_in(netns)?;
    match target.among(&groups) {
        Ok(group) => Ok(group.clone()),
        Err(several @ Unclear::Several(..)) => Err(UsageError::new(several).into()),
        Err(none @ Unclear::None(_)) => {
            let there = discovery::unrelated_sockets(netns, target.address.port())?;
            Err(anyhow!("{none}; {}", remedy(target, &there)))
        }
    }
}

fn stay(
    runtime: &Runtime,
    mut signals: Signals,
    mut attachment: Attachment,
    logs: Logs,
    waited: &Cookies,
    quiet: bool,
    store: &Store,
) -> Result<()> {
    let (group, name) = (attachment.steering().group()?, attachment.steering().name().to_owned());
    let outcome = runtime.block_on(async {
        if group.log_level >= LOG_DEBUG {
            tokio::spawn(log_lines::forward(logs));
        }
        let steering = attachment.steering();
        let (line, members) = (settle_in(steering, waited)?, steering.members()?.len());
        let mut console = Console::start(quiet, members + ROOM);
        let mut adopted = Adopted::watch(&mut attachment)?;
        console.line(&line);
        keep_up(&mut adopted, &mut signals, &mut console).await
    });
    // Whatever happened: nothing stays attached without us.
    let snapshot = attachment.steering().snapshot();
    let summary = snapshot.map(|snapshot| render::table::summary(&snapshot));
    attachment.end(store).with_context(|| {
        format!("{name} stays attached; give it back with `balancer detach --group {name}`")
    })?;
    match outcome? {
        Ending::Told if quiet => Ok(()),
        Ending::Told => render::say(format_args!("{}", summary?)),
        Ending::GivenBack if quiet => Ok(()),
        Ending::GivenBack => render::say(format_args!(
            "{} was given back to the kernel's hash by another command; nothing is left to watch",
            group.identity
        )),
    }
}
