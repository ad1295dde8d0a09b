//! What policies are compared on: a group that is steered, servers that are steered for that time, or a command
//! that is run for it.

use std::{ffi::OsString, num::NonZero, path::Path, thread::available_parallelism};

use anyhow::{Context as _, Result, bail};
use balancer_steering::{
    address::ServedAddress,
    discovery::Netns,
    group::{GroupSpec, Protocol},
    options::PolicyOptions,
    policy::Policy,
    steering::{Steering, Store},
};

use crate::{
    cli::LiveArgs,
    commands::{attach, detach::at},
    experiment::Temporary,
    render::policy::policy_line,
    target::Target,
};

/// What there is before anything is changed.
pub enum Subject {
    /// A group.
    Steered(Box<Steering>, GroupSpec),
    /// Servers that share an address, in words.
    Unsteered(ServedAddress, String),
    /// Nothing that serves yet.
    Command,
}

impl Subject {
    /// What is meant.
    ///
    /// # Errors
    /// Returns an error if there is nothing at the address, or no policies could be compared on it.
    pub fn find(args: &LiveArgs, store: &Store) -> Result<Self> {
        let address = match args.address {
            Some(address) if args.command.is_empty() => address,
            _ => return Ok(Self::Command),
        };
        if let Some(mut steering) = at(store, address)? {
            steering.restore()?;
            let group = steering.group()?;
            if group.identity.protocol != Protocol::Tcp || !group.counted {
                bail!("only TCP groups whose connections are counted can be compared on");
            }
            return Ok(Self::Steered(Box::new(steering), group));
        }
        let target = Target { address, protocol: None, netns: None };
        let found = attach::find(&Netns::own()?, target)?;
        if found.identity.protocol != Protocol::Tcp {
            bail!("{} can be steered, but only TCP can be compared on", found.identity);
        }
        let sockets = found.sockets.len();
        Ok(Self::Unsteered(address, format!("{} ({sockets} sockets)", found.identity)))
    }

    /// The options that policies have unless others are named.
    pub fn options(&self) -> PolicyOptions {
        match self {
            Self::Steered(_, group) => group.options,
            _ => PolicyOptions::default(),
        }
    }

    /// What would be touched, and what would become of it; `None` if nobody else uses it.
    pub fn stakes(&self) -> Option<[String; 2]> {
        match self {
            Self::Steered(steering, group) => {
                let before = policy_line(group.policy, group.options.into());
                let what = format!("the policy of {} ({})", steering.name(), group.identity);
                Some([what, format!("{before} would be in force again")])
            }
            Self::Unsteered(_, what) => Some([
                format!("{what}, which is not steered, would be, and its policy"),
                "it would be given back to the kernel's hash".to_owned(),
            ]),
            Self::Command => None,
        }
    }

    /// A group that is steered, and by whom, if that is for the comparison only.
    ///
    /// # Errors
    /// Returns an error if it cannot be steered.
    pub fn steer(
        self,
        args: &LiveArgs,
        workers: Option<usize>,
        bpffs: &Path,
    ) -> Result<(Steering, Option<Temporary>)> {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let (mut arguments, members) = match self {
            Self::Steered(steering, _) => return Ok((*steering, None)),
            Self::Unsteered(address, _) => (words(&["attach", &address.to_string()]), 1),
            Self::Command => {
                let workers = workers.map_or_else(|| available_parallelism().map(NonZero::get), Ok);
                let workers = workers.context("cannot count the CPUs")?;
                let listen =
                    args.address.map_or("127.0.0.1:0".to_owned(), |address| address.to_string());
                let mut run =
                    words(&["run", "--listen", &listen, "--workers", &workers.to_string()]);
                // If the command cannot run that is soon an error, and if it does not end it is killed.
                run.extend(words(&["--max-restarts", "3", "--kill-after", "10s"]));
                (run, workers)
            }
        };
        arguments.extend(words(&["--quiet", "--policy", Policy::Kernel.name()]));
        if args.self_bind {
            arguments.push("--self-bind".into());
        }
        if !args.command.is_empty() {
            arguments.push("--".into());
            arguments.extend(args.command.iter().cloned());
        }
        let (temporary, steering) = Temporary::start(bpffs, &arguments, members)?;
        Ok((steering, Some(temporary)))
    }
}
