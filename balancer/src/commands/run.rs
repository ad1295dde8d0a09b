//! `balancer run`: starts workers on one port and steers new connections among them, until told
//! to stop.

use std::{iter::repeat, net::SocketAddr, path::Path, thread::available_parallelism};

use anyhow::{Context as _, Result, anyhow};
use balancer_common::MAX_MEMBERS;
use balancer_steering::{
    affinity,
    discovery::{self, Netns},
    flows::Flows,
    group::{self, GroupIdentity, GroupSpec, Protocol, own_netns},
    kernel,
    metric::Metric,
    options,
    policy::Policy,
    privilege,
    process::{self, Identity},
    socket,
    steering::{LOG_DEBUG, Logs, Steering, Store},
    weight::Weight,
};

use crate::{
    agent::{Signals, Spawned, keep_up},
    cli::{LogLevel, Ready, RunArgs},
    commands::{
        claim,
        takeover::{self, Of},
    },
    console::Console,
    descriptors,
    error::{UsageError, with_remedy},
    log_lines, render,
    supervisor::{Ending, Inheritance, Job, Seats, Supervisor, WorkerPlan},
};

/// What `run` was asked for, checked.
struct Plan {
    protocol: Protocol,
    address: SocketAddr,
    flows: Option<Flows>,
    counted: bool,
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
        let address = args.listen.0;
        if args.takeover && address.port() == 0 {
            return Err(UsageError::new(format_args!(
                "{} names no group to take over; give the port that it serves in --listen",
                args.listen
            ))
            .into());
        }
        if args.udp && args.command.is_empty() {
            return Err(UsageError::new(
                "the built-in server speaks HTTP, so --udp needs a command; give one after `--`",
            )
            .into());
        }
        if args.flow.is_asked_for() && !args.udp {
            return Err(UsageError::new(
                "flows are of UDP; add --udp, or leave out --flow, --flow-timeout and --max-flows",
            )
            .into());
        }
        args.flow.check()?;
        let flows = args.flow.flows().filter(|_| args.udp);
        let protocol = if args.udp { Protocol::Udp } else { Protocol::Tcp };
        let counted = if args.udp { flows.is_some() } else { !args.options.no_count };
        let cpus = if args.pin { affinity::cpus()? } else { Vec::new() };
        let (name, job) = (args.name.clone(), job(args)?);
        Ok(Self { protocol, address, flows, counted, weights, cpus, name, job })
    }
}

fn job(args: &RunArgs) -> Result<Job> {
    let command = args.command.clone();
    if command.is_empty() {
        return Ok(Job::default());
    }
    if args.self_bind && args.listen.0.port() == 0 {
        return Err(UsageError::new(format_args!(
            "{} is no place to find a command on that binds for itself; give the port that it \
             binds in --listen",
            args.listen
        ))
        .into());
    }
    Ok(Job::Command { command, binds: args.self_bind, notifies: args.ready == Ready::Notify })
}

/// Workers that serve, or are about to.
struct Begun {
    supervisor: Supervisor,
    name: String,
    group: GroupSpec,
    logs: Logs,
}

/// Runs until SIGINT or SIGTERM.
pub fn run(args: RunArgs, bpffs: &Path, log_level: LogLevel) -> Result<()> {
    let plan = Plan::from_args(&args)?;
    kernel::require(kernel::release())?;
    privilege::require()?;
    process::keep_from_children().context("cannot close what was left open to this process")?;
    if args.user.is_some() {
        privilege::require_for_users()?;
    }
    let options = args.options.options();
    if options.load == Metric::Reported && (args.command.is_empty() || args.self_bind) {
        return Err(UsageError::new(
            "only a command that is handed its socket finds where to report its load; give one after \
             `--`, without --self-bind, or leave --load out",
        )
        .into());
    }
    let policy = args.policy.unwrap_or(Policy::RoundRobin);
    options::check(policy, options, plan.protocol, plan.counted)?;
    if let Some(shortcoming) = options::shortcoming(policy) {
        tracing::warn!("{shortcoming}");
    }
    let store = Store::prepare(bpffs).map_err(with_remedy)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let _inside = runtime.enter();
    // Before there is a group whose agent could be sent one.
    let mut signals = Signals::listen()?;
    let log_level = if log_level == LogLevel::Debug { LOG_DEBUG } else { 0 };
    let begin = if args.takeover { take_over } else { begin };
    let Begun { supervisor, name, group, logs } = begin(&args, plan, &store, bpffs, log_level)?;
    let outcome = runtime.block_on(async {
        if group.log_level >= LOG_DEBUG {
            tokio::spawn(log_lines::forward(logs));
        }
        // And one that is being replaced.
        let mut console = Console::start(args.quiet, supervisor.workers() + 1);
        let mut workers = Spawned::new(supervisor, group, &signals, args.takeover, ending(&args));
        workers.announce(&console);
        keep_up(&mut workers, &mut signals, &mut console).await
    });
    // Whatever happened: nothing stays pinned without us.
    Steering::remove_pins_of(&store, &name, group.agent)?;
    if let Some(summary) = outcome?
        && !args.quiet
    {
        render::say(format_args!("{summary}"))?;
    }
    Ok(())
}

fn begin(args: &RunArgs, plan: Plan, store: &Store, bpffs: &Path, log_level: u8) -> Result<Begun> {
    claim::refuse_steered(store, &identity(&plan, plan.address)?)?;
    refuse_served(&plan)?;
    descriptors::raise(plan.weights.len(), plan.job.descriptors())?;
    let (first, address) = if plan.job.binds() {
        (None, plan.address)
    } else {
        let first = socket::bind_as(plan.protocol, plan.address)?;
        let address = first.local_addr()?.as_socket().context("a socket has no address")?;
        (Some(first), address)
    };
    let identity = identity(&plan, address)?;
    let name = claim::name(store, plan.name.as_deref(), &identity)?;
    let agent = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
    let (policy, options) = (args.policy.unwrap_or(Policy::RoundRobin), args.options.options());
    let group = GroupSpec {
        identity,
        policy,
        options,
        agent,
        log_level,
        adopted: false,
        replaced: false,
        counted: plan.counted,
        flows: plan.flows,
        index: 0,
        service: None,
    };
    let (steering, logs) = Steering::create(store, &name, &group, |_| Ok(()))?;
    let seats = Seats::Steered { steering: Box::new(steering), identity, first };
    let plans = workers(args, &plan, plan.weights.clone());
    match Supervisor::start(seats, bpffs.to_owned(), plans) {
        Ok(supervisor) => Ok(Begun { supervisor, name, group, logs }),
        Err(error) => {
            Steering::remove_pins_of(store, &name, agent)?;
            Err(error)
        }
    }
}

/// Goes on with what a killed agent has left. Until the workers are watched, whatever fails leaves
/// them as they are.
fn take_over(
    args: &RunArgs,
    plan: Plan,
    store: &Store,
    bpffs: &Path,
    log_level: u8,
) -> Result<Begun> {
    let identity = identity(&plan, plan.address)?;
    let default = group::default_name(identity.protocol, identity.address);
    let (mut steering, group) =
        takeover::take_over(store, &identity, plan.name.as_deref(), &default, Of::Ours)?;
    takeover::note_log_level(&group, log_level);
    takeover::switch(&mut steering, args.policy, args.options.options())?;
    let inheritance = Inheritance::of(&steering)?;
    let asked = args.workers.or((!args.weights.is_empty()).then_some(args.weights.len()));
    let weights = inheritance.weights(asked, &args.weights)?;
    descriptors::raise(weights.len(), plan.job.descriptors())?;
    let plans = workers(args, &plan, weights);
    let (name, logs) = (steering.name().to_owned(), steering.logs()?);
    let seats = Seats::Steered { steering: Box::new(steering), identity, first: None };
    let supervisor = Supervisor::take_over(seats, bpffs.to_owned(), plans, inheritance)?;
    Ok(Begun { supervisor, name, group, logs })
}

fn identity(plan: &Plan, address: SocketAddr) -> Result<GroupIdentity> {
    Ok(GroupIdentity { netns: own_netns()?, protocol: plan.protocol, address })
}

fn workers(args: &RunArgs, plan: &Plan, weights: Vec<Weight>) -> Vec<WorkerPlan> {
    let (ready_within, drain_within) = (args.ready_timeout.0, args.drain_timeout.0);
    let cpus = plan.cpus.iter().copied().map(Some).cycle().chain(repeat(None));
    let worker = |(weight, cpu)| WorkerPlan {
        weight,
        job: plan.job.clone(),
        cpu,
        user: args.user.clone(),
        ready_within,
        drain_within,
        idle_grace: args.idle_grace,
        ending: ending(args),
        restarts: args.max_restarts,
    };
    weights.into_iter().zip(cpus).map(worker).collect()
}

fn ending(args: &RunArgs) -> Ending {
    Ending { signal: args.stop_signal, kill_after: args.kill_after.map(|time| time.0) }
}

/// Refuses an address that a server shares already: its sockets would be in the group and get
/// nothing.
fn refuse_served(plan: &Plan) -> Result<()> {
    let Plan { protocol, address, .. } = *plan;
    let inode = match protocol {
        Protocol::Tcp => {
            let mut listeners = socket::listeners(address.port()).into_iter();
            listeners.find(|entry| entry.local_address == address).map(|entry| entry.inode)
        }
        Protocol::Udp => {
            let place = identity(plan, address)?;
            let mut groups = discovery::groups_in(&Netns::own()?)?.into_iter();
            let group = groups.find(|group| group.identity == place);
            group.and_then(|group| Some(group.sockets.first()?.inode))
        }
    };
    let Some(inode) = inode else { return Ok(()) };
    let udp = if protocol == Protocol::Udp { " --udp" } else { "" };
    Err(anyhow!(
        "{address} is served already{}; steer it with `balancer attach {address}{udp}`, stop that \
         server, or choose another --listen",
        socket::describe_holders(inode)
    ))
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
        assert_eq!(plan(&["--pin"]).unwrap().cpus, affinity::cpus().unwrap());
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
