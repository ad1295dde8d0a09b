//! `balancer attach`: steers servers that are already running, and watches for new ones until told
//! to stop.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::Runtime;

use crate::{
    address,
    attachment::{
        Attachment, Look,
        admission::Admission,
        occasions::Occasions,
        target::{Target, Unclear, remedy},
    },
    cli::{AttachArgs, LogLevel},
    commands::{
        audit::Audit, claim, growth::Growth, supervise::Wanted, takeover, warn_if_unpinned,
    },
    console::Console,
    discovery::{self, FoundGroup, Lookout, Netns},
    error::UsageError,
    group::Group,
    kernel,
    policy::Policy,
    privilege,
    process::Identity,
    render,
    steering::{LOG_DEBUG, Logs, Steering, Store, forward_logs},
    tracking, tuning,
};

/// Attaches; then, unless once is enough, runs until SIGINT, SIGTERM or SIGHUP.
pub fn attach(args: &AttachArgs, bpffs: &Path, log_level: LogLevel) -> Result<()> {
    if let Some(name) = &args.name {
        claim::check_name(name)?;
    }
    kernel::require(kernel::release())?;
    privilege::require()?;
    let netns = args.netns.as_ref().map_or_else(Netns::own, Netns::open)?;
    let found = find(&netns, Target { address: args.address, udp: args.udp })?;
    let policy = args.policy.unwrap_or(Policy::RoundRobin);
    let tuning = args.tuning.tuning();
    tuning::check(policy, tuning, found.identity.protocol)?;
    let store = Store::prepare(bpffs)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let _inside = runtime.enter();
    // Before anything is attached that the end by a signal would leave behind.
    let wanted = if args.once { None } else { Some(Wanted::listen()?) };
    let default = address::default_name(found.identity.protocol, found.identity.address);
    let log_level = if log_level == LogLevel::Debug { LOG_DEBUG } else { 0 };
    let admission = |members: &dyn Fn(u64) -> bool| {
        let members = found.sockets.iter().filter(|socket| members(socket.cookie));
        let commands = members.filter_map(|socket| Some(socket.worker.as_ref()?.command.clone()));
        Admission::new(args.admit, commands)
    };
    let lookout = Lookout::new(netns, &found);
    let (attachment, group, logs) = if args.takeover {
        let name = args.name.as_deref();
        let (mut steering, group) =
            takeover::take_over(&store, &found.identity, name, &default, true)?;
        takeover::note_log_level(&group, log_level);
        takeover::switch(&mut steering, args.policy, tuning)?;
        let (logs, members) = (steering.logs()?, steering.members()?);
        // Others may have been held back.
        let admission = admission(&|cookie| members.iter().any(|m| m.cookie == cookie));
        (Attachment::of(steering, group.identity, lookout, admission), group, logs)
    } else {
        claim::refuse_steered(&store, &found.identity)?;
        let name = args.name.as_ref().unwrap_or(&default);
        claim::refuse_taken_name(&store, name)?;
        let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
        let group = Group {
            identity: found.identity,
            policy,
            tuning,
            agent: if args.once { Identity { pid: 0, start: 0 } } else { own },
            log_level,
            adopted: true,
            replaced: false,
        };
        let admission = admission(&|_| true);
        let (attachment, logs) =
            Attachment::begin(&store, name, &group, &found, lookout, args.replace, admission)?;
        (attachment, group, logs)
    };
    if let Some(wanted) = wanted {
        return stay(&runtime, wanted, attachment, logs, &group, args.quiet, &store);
    }
    let line = settle_in(attachment.steering())?;
    if args.quiet { Ok(()) } else { render::say(format_args!("{line}")) }
}

/// Makes known what was there before; what to say of the group.
fn settle_in(steering: &Steering) -> Result<String> {
    if let Err(error) = tracking::catch_up(steering) {
        tracing::warn!("not all connections that are open already are counted: {error:#}");
    }
    warn_if_unpinned(steering)?;
    let (group, members, name) = (steering.group()?, steering.members()?.len(), steering.name());
    let (identity, policy) = (group.identity, group.policy.name());
    Ok(format!("steering {identity}, policy {policy}, {members} members, group {name}"))
}

/// Lines of the live view for servers that come later.
const ROOM: usize = 4;

fn find(netns: &Netns, target: Target) -> Result<FoundGroup> {
    let groups = discovery::groups_in(netns)?;
    match target.among(&groups) {
        Ok(group) => Ok(group.clone()),
        Err(several @ Unclear::Several(..)) => Err(UsageError::new(several).into()),
        Err(none @ Unclear::None(_)) => {
            let there = discovery::bystanders(netns, target.address.port())?;
            Err(anyhow!("{none}; {}", remedy(target, &there)))
        }
    }
}

/// How the watching ended.
enum Ending {
    /// By a signal.
    Told,
    /// Another command gave the group back.
    GivenBack,
}

fn stay(
    runtime: &Runtime,
    wanted: Wanted,
    mut attachment: Attachment,
    logs: Logs,
    group: &Group,
    quiet: bool,
    store: &Store,
) -> Result<()> {
    let outcome = runtime.block_on(async {
        if group.log_level >= LOG_DEBUG {
            tokio::spawn(forward_logs(logs));
        }
        let steering = attachment.steering();
        let (line, members) = (settle_in(steering)?, steering.members()?.len());
        let mut console = Console::start(quiet, members + ROOM);
        watch(&mut attachment, &mut console, group, wanted, &line).await
    });
    // Whatever happened: nothing stays attached without us.
    let summary =
        attachment.steering().snapshot().map(|snapshot| render::table::summary(&snapshot));
    attachment.end(store)?;
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

async fn watch(
    attachment: &mut Attachment,
    console: &mut Console,
    group: &Group,
    mut wanted: Wanted,
    steering: &str,
) -> Result<Ending> {
    let mut occasions = Occasions::start(group.identity.protocol, attachment.steering())?;
    let mut growth = Growth::of(attachment.steering().group()?.tuning);
    let mut audit = Audit::start();
    let mut tick = tokio::time::interval(console.interval());
    console.line(steering);
    loop {
        let there = tokio::select! {
            likely = occasions.next() => {
                attachment.look(&likely?).map(|look| match look {
                    Look::GivenBack => false,
                    Look::Lines(lines) => {
                        lines.iter().for_each(|line| console.line(line));
                        true
                    }
                })
            }
            _ = tick.tick() => {
                let snapshot = attachment.steering().snapshot();
                snapshot.map(|snapshot| console.update(snapshot)).and_then(|()| attachment.settle())
            }
            () = growth.due() => attachment.grow().map(|()| true),
            () = audit.due() => audit.look(attachment.steering()).map(|()| true),
            _ = wanted.next() => return Ok(Ending::Told),
        };
        match there {
            Ok(true) => {}
            Ok(false) => return Ok(Ending::GivenBack),
            // What is seated stays steered.
            Err(error) => tracing::error!("{error:#}"),
        }
    }
}
