//! `balancer attach`: steers servers that are already running, and watches for new ones until told
//! to stop.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    address,
    attachment::{
        Attachment, Look,
        admission::Admission,
        occasions::Occasions,
        target::{Target, Unclear, remedy},
    },
    cli::{AttachArgs, LogLevel},
    commands::{audit::Audit, claim, growth::Growth, takeover, warn_if_unpinned},
    console::Console,
    discovery::{self, FoundGroup, Lookout, Netns},
    error::UsageError,
    group::Group,
    kernel,
    policy::Policy,
    privilege,
    process::Identity,
    render,
    steering::{LOG_DEBUG, Logs, Store, forward_logs},
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
    let default = address::default_name(found.identity.protocol, found.identity.address);
    let log_level = if log_level == LogLevel::Debug { LOG_DEBUG } else { 0 };
    let commands =
        found.sockets.iter().filter_map(|socket| Some(socket.worker.as_ref()?.command.clone()));
    let admission = Admission::new(args.admit, commands);
    let lookout = Lookout::new(netns, &found);
    let (attachment, group, logs) = if args.takeover {
        let name = args.name.as_deref();
        let (mut steering, group) =
            takeover::take_over(&store, &found.identity, name, &default, true)?;
        takeover::note_log_level(&group, log_level);
        takeover::switch(&mut steering, args.policy, tuning)?;
        let logs = steering.logs()?;
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
        let (attachment, logs) =
            Attachment::begin(&store, name, &group, &found, lookout, args.replace, admission)?;
        (attachment, group, logs)
    };
    let steering = attachment.steering();
    tracking::catch_up(steering)?;
    warn_if_unpinned(steering)?;
    let (members, policy, name) =
        (steering.members()?.len(), steering.group()?.policy.name(), steering.name());
    let steering =
        format!("steering {}, policy {policy}, {members} members, group {name}", group.identity);
    if args.once {
        return if args.quiet { Ok(()) } else { render::say(format_args!("{steering}")) };
    }
    stay(attachment, logs, &group, args.quiet, &steering, &store)
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
    mut attachment: Attachment,
    logs: Logs,
    group: &Group,
    quiet: bool,
    steering: &str,
    store: &Store,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let outcome = runtime.block_on(async {
        if group.log_level >= LOG_DEBUG {
            tokio::spawn(forward_logs(logs));
        }
        let members = attachment.steering().members()?.len();
        let mut console = Console::start(quiet, members + ROOM);
        watch(&mut attachment, &mut console, group, steering).await
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
    steering: &str,
) -> Result<Ending> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
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
            _ = interrupt.recv() => return Ok(Ending::Told),
            _ = terminate.recv() => return Ok(Ending::Told),
            _ = hangup.recv() => return Ok(Ending::Told),
        };
        match there {
            Ok(true) => {}
            Ok(false) => return Ok(Ending::GivenBack),
            // What is seated stays steered.
            Err(error) => tracing::error!("{error:#}"),
        }
    }
}
