//! `balancer run`: starts workers on one port and steers new connections among them, until told
//! to stop.

use std::{iter::repeat, net::SocketAddr, path::Path, thread::available_parallelism};

use anyhow::{Context as _, Result, anyhow, bail};
use balancer_ebpf::MAX_MEMBERS;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    address,
    cli::{LogLevel, RunArgs},
    commands::{audit::Audit, claim, growth::Growth, warn_if_unpinned},
    console::Console,
    error::UsageError,
    group::{Group, GroupIdentity, Protocol, own_netns},
    kernel, machine, privilege,
    process::Identity,
    render, socket,
    steering::{LOG_DEBUG, Steering, Store, forward_logs},
    supervisor::{Job, Notice, Seats, Supervisor, WorkerPlan},
    tuning::{self, Load},
    weight::Weight,
};

/// What `run` was asked for, checked.
struct Plan {
    address: SocketAddr,
    weights: Vec<Weight>,
    /// The CPUs to pin them to, in turn; none where they are not.
    cpus: Vec<usize>,
    name: Option<String>,
    job: Job,
}

impl Plan {
    fn from_args(args: &RunArgs) -> Result<Self> {
        let limit = MAX_MEMBERS as usize;
        let workers = match (args.workers, args.weights.len()) {
            (Some(workers), _) => workers,
            (None, 0) => available_parallelism().context("cannot count the CPUs")?.get(),
            (None, weights) => weights,
        };
        if workers == 0 || workers > limit {
            return Err(UsageError::new(format_args!(
                "{workers} workers cannot be run; choose 1 to {limit} with --workers"
            ))
            .into());
        }
        let weights = match args.weights.len() {
            0 => vec![Weight::ONE; workers],
            count if count == workers => args.weights.clone(),
            count => {
                return Err(UsageError::new(format_args!(
                    "{count} weights do not fit {workers} workers; give one for each in --weights, \
                     or leave --workers out"
                ))
                .into());
            }
        };
        if let Some(name) = &args.name {
            claim::check_name(name)?;
        }
        let cpus = if args.pin { machine::cpus()? } else { Vec::new() };
        let (address, name) = (args.listen.0, args.name.clone());
        Ok(Self { address, weights, cpus, name, job: job(args)? })
    }
}

fn job(args: &RunArgs) -> Result<Job> {
    let command = args.command.clone();
    if command.is_empty() {
        return Ok(Job::default());
    }
    if !args.self_bind {
        return Ok(Job::Command(command));
    }
    if args.listen.0.port() == 0 {
        return Err(UsageError::new(format_args!(
            "{} is no place to find a command on that binds for itself; give the port that it \
             binds in --listen",
            args.listen
        ))
        .into());
    }
    Ok(Job::SelfBind { command, within: args.bind_timeout.0 })
}

/// Runs until SIGINT or SIGTERM.
pub fn run(args: RunArgs, bpffs: &Path, log_level: LogLevel) -> Result<()> {
    let plan = Plan::from_args(&args)?;
    kernel::require(kernel::release())?;
    privilege::require()?;
    let tuning = args.tuning.tuning();
    if tuning.load == Load::Reported && (args.command.is_empty() || args.self_bind) {
        return Err(UsageError::new(
            "only a command that is handed its socket finds where to report its load; give one after \
             `--`, without --self-bind, or leave --load out",
        )
        .into());
    }
    tuning::check(args.policy, tuning, Protocol::Tcp)?;
    let store = Store::prepare(bpffs)?;
    let identity = |address| -> Result<_> {
        Ok(GroupIdentity { netns: own_netns()?, protocol: Protocol::Tcp, address })
    };
    claim::refuse_steered(&store, &identity(plan.address)?)?;
    refuse_served(plan.address)?;

    let (first, address) = if plan.job.binds() {
        (None, plan.address)
    } else {
        let first = socket::bind(plan.address)?;
        let address = first.local_addr()?.as_socket().context("a TCP socket has no address")?;
        (Some(first), address)
    };
    let name = plan.name.unwrap_or_else(|| address::default_name(Protocol::Tcp, address));
    claim::refuse_taken_name(&store, &name)?;
    let agent = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
    let group = Group {
        identity: identity(address)?,
        policy: args.policy,
        tuning,
        agent,
        log_level: if log_level == LogLevel::Debug { LOG_DEBUG } else { 0 },
        adopted: false,
        replaced: false,
    };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let (steering, logs) = Steering::create(&store, &name, &group, |_| Ok(()))?;
    let outcome = runtime.block_on(async {
        if group.log_level >= LOG_DEBUG {
            tokio::spawn(forward_logs(logs));
        }
        let mut console = Console::start(args.quiet, plan.weights.len());
        let seats = Seats::Steered { steering: Box::new(steering), address, first };
        let cpus = plan.cpus.iter().copied().map(Some).cycle().chain(repeat(None));
        let worker = |(weight, cpu)| WorkerPlan { weight, job: plan.job.clone(), cpu };
        let workers = plan.weights.into_iter().zip(cpus).map(worker).collect();
        let supervisor = Supervisor::start(seats, bpffs.to_owned(), workers)?;
        supervise(supervisor, &mut console, &group).await
    });
    // Whatever happened: nothing stays pinned without us.
    Steering::remove_pins_of(&store, &name, agent)?;
    if let Some(summary) = outcome?
        && !args.quiet
    {
        render::say(format_args!("{summary}"))?;
    }
    Ok(())
}

/// Until stopped; returns the summary.
async fn supervise(
    mut supervisor: Supervisor,
    console: &mut Console,
    group: &Group,
) -> Result<Option<String>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    let mut tick = tokio::time::interval(console.interval());
    let mut growth = Growth::of(group.tuning);
    let mut audit = Audit::start();
    let mut ready = false;
    let mut stopping = false;
    loop {
        let stop = tokio::select! {
            notice = supervisor.next() => {
                match notice {
                    Ok(Notice::Line(line) | Notice::Back(_, line) | Notice::Died(line)) => {
                        console.line(&line);
                    }
                    Ok(Notice::Complaint(line)) => console.complain(&line),
                    Ok(Notice::AllReady) => {
                        ready = true;
                        let workers = supervisor.running();
                        let name = supervisor.steering()?.name();
                        console.line(&listening(name, workers, group));
                        warn_if_unpinned(supervisor.steering()?)?;
                    }
                    Ok(Notice::NeverReady(how)) => bail!("{how}"),
                    Ok(Notice::AllGone) => break,
                    Err(error) if !ready => return Err(error),
                    // The others serve on.
                    Err(error) => tracing::error!("{error:#}"),
                }
                false
            }
            _ = tick.tick(), if ready && !stopping => {
                match supervisor.steering()?.snapshot() {
                    Ok(snapshot) => console.update(snapshot),
                    Err(error) => tracing::error!("{error:#}"),
                }
                false
            }
            () = growth.due(), if ready && !stopping => {
                if let Err(error) = supervisor.steering()?.grow() {
                    tracing::error!("{error:#}");
                }
                false
            }
            () = audit.due(), if ready && !stopping => {
                if let Err(error) = audit.look(supervisor.steering()?) {
                    tracing::error!("{error:#}");
                }
                false
            }
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            _ = hangup.recv() => true,
        };
        if stop && stopping {
            let running = supervisor.running();
            supervisor.signal(Signal::KILL);
            bail!("stopped at once; {running} workers were killed with requests in flight");
        }
        if stop {
            stopping = true;
            console.finish();
            console.line("stopping: requests in flight are finished first; again to stop at once");
            supervisor.stop();
        }
    }
    Ok(ready
        .then(|| supervisor.steering()?.snapshot())
        .transpose()?
        .map(|s| render::table::summary(&s)))
}

fn listening(name: &str, workers: usize, group: &Group) -> String {
    let (address, policy) = (group.identity.address, group.policy.name());
    format!("listening on {address}, policy {policy}, {workers} workers, group {name}")
}

/// Refuses an address that a server shares already: its sockets would be in the group and get
/// nothing.
fn refuse_served(address: SocketAddr) -> Result<()> {
    match socket::listeners(address.port()).into_iter().find(|entry| entry.local_address == address)
    {
        None => Ok(()),
        Some(entry) => Err(anyhow!(
            "{address} is served already{}; steer it with `balancer attach {address}`, stop that \
             server, or choose another --listen",
            socket::describe_holders(entry.inode)
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn plan(args: &[&str]) -> Result<Plan> {
        let cli = Cli::try_parse_from(["balancer", "run"].iter().chain(args)).unwrap();
        let Verb::Run(args) = cli.verb else { unreachable!() };
        Plan::from_args(&args)
    }

    fn refusal(args: &[&str]) -> String {
        let error = plan(args).err().unwrap();
        assert_eq!(crate::error::exit_code(&error), 2);
        error.to_string()
    }

    #[test]
    fn as_many_workers_are_run_as_there_are_weights() {
        assert_eq!(plan(&["--weights", "5,3,2"]).unwrap().weights.len(), 3);
        assert_eq!(plan(&["--workers", "4"]).unwrap().weights, [Weight::ONE; 4]);
        assert!(!plan(&[]).unwrap().weights.is_empty());
    }

    #[test]
    fn workers_are_pinned_only_where_that_is_asked_for() {
        assert_eq!(plan(&["--pin"]).unwrap().cpus, machine::cpus().unwrap());
        assert!(plan(&[]).unwrap().cpus.is_empty());
    }

    #[test]
    fn weights_that_do_not_fit_the_workers_are_refused() {
        let message = refusal(&["--workers", "2", "--weights", "5,3,2"]);
        assert!(message.contains("3 weights") && message.contains("2 workers"), "{message}");
    }

    #[test]
    fn no_workers_and_too_many_are_refused_with_the_limit() {
        for workers in ["0", "5000"] {
            let message = refusal(&["--workers", workers]);
            assert!(message.contains(workers) && message.contains("1 to 1024"), "{message}");
        }
    }
}
