//! How groups begin to be steered: all of them, or none.

use anyhow::{Context as _, Result};
use balancer_common::MAX_SERVICE_GROUPS;
use balancer_steering::{
    adoption::{Admits, Attachment},
    discovery::{Cookies, FoundGroup, GroupWatcher},
    existing,
    flows::Flows,
    group::{self, GroupIdentity, GroupSpec, Protocol},
    options::{self, PolicyOptions},
    policy::Policy,
    process::Identity,
    steering::{Logs, Steering, Store, join_service},
};

use crate::{
    admission::Admission,
    cli::AttachArgs,
    commands::{
        claim,
        takeover::{self, Of},
    },
    error::{UsageError, with_remedy},
};

/// What is to be done.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub args: &'a AttachArgs,
    pub store: &'a Store,
    pub log_level: u8,
}

/// A group that is steered.
pub struct Begun {
    pub attachment: Attachment,
    pub logs: Logs,
    /// Connections that waited before.
    pub waited: Cookies,
    /// By an earlier agent.
    is_taken_over: bool,
}

impl Begun {
    pub fn steering(&self) -> &Steering {
        self.attachment.steering()
    }
}

impl Plan<'_> {
    /// Refuses what cannot be done, before anything is.
    ///
    /// # Errors
    /// Returns an error if a group cannot have the policy, or its name or service is another's.
    pub fn check(self, found: &[FoundGroup]) -> Result<()> {
        let identities: Vec<_> = found.iter().map(|group| group.identity).collect();
        if let Some(service) = self.args.service {
            claim::refuse_service(self.store, service, &identities)?;
            if identities.len() > MAX_SERVICE_GROUPS as usize {
                return Err(UsageError::new(format_args!(
                    "a service has {MAX_SERVICE_GROUPS} groups at most, because the load of a worker is \
                     added up over them; make two services of these addresses"
                ))
                .into());
            }
        }
        let udp = identities.iter().any(|identity| identity.protocol == Protocol::Udp);
        if self.args.flow.is_asked_for() && !udp {
            return Err(UsageError::new(
                "flows are of UDP, and what is steered here is TCP; leave out --flow, --flow-timeout and \
                 --max-flows",
            )
            .into());
        }
        self.args.flow.check()?;
        let (policy, options) = self.policy();
        for identity in &identities {
            let (_, counted) = self.counted(identity);
            options::check(policy, options, identity.protocol, counted)
                .map_err(|error| self.explain(identity, error.into()))?;
        }
        Ok(())
    }

    /// The flows of a group, and whether anything is counted.
    fn counted(self, identity: &GroupIdentity) -> (Option<Flows>, bool) {
        match identity.protocol {
            Protocol::Tcp => (None, !self.args.options.no_count),
            Protocol::Udp => {
                let flows = self.args.flow.flows();
                (flows, flows.is_some())
            }
        }
    }

    fn policy(self) -> (Policy, PolicyOptions) {
        (self.args.policy.unwrap_or(Policy::RoundRobin), self.args.options.options())
    }

    /// Steers all of them, or none: if one cannot be, those before it are given back.
    ///
    /// # Errors
    /// Names the group that cannot be steered.
    pub fn begin(self, found: &[FoundGroup]) -> Result<Vec<Begun>> {
        let mut groups: Vec<(&FoundGroup, bool)> = Vec::new();
        for group in found {
            let steered = self.args.service.is_some() && self.args.takeover;
            groups.push((group, steered && takeover::is_there(self.store, &group.identity)?));
        }
        // One that the earlier agent did not come to is steered now, as those that it did.
        groups.sort_by_key(|(_, is_steered)| !is_steered);
        let some_are = groups.iter().any(|(_, is_steered)| *is_steered);
        let mut begun = Vec::new();
        for (group, is_steered) in groups {
            let takes_over = self.args.takeover && (is_steered || !some_are);
            let one =
                if takes_over { self.take_over(group) } else { self.steer(group, begun.first()) };
            match one {
                Ok(one) => begun.push(one),
                Err(error) => {
                    give_back(begun, self.store);
                    return Err(self.explain(&group.identity, error));
                }
            }
        }
        if let Some(service) = self.args.service {
            let joined = join_service(self.store, service).map_err(anyhow::Error::from);
            if let Err(error) = joined.and_then(|()| self.switch(&begun)) {
                give_back(begun, self.store);
                return Err(error);
            }
        }
        Ok(begun)
    }

    /// Switches the policy of those that were taken over, once all are.
    fn switch(self, begun: &[Begun]) -> Result<()> {
        let (policy, options) = (self.args.policy, self.args.options.options());
        for one in begun.iter().filter(|one| one.is_taken_over) {
            let name = one.steering().name();
            let mut steering = Steering::open(self.store, name)?;
            takeover::switch(&mut steering, policy, options).with_context(|| {
                format!(
                    "{name} keeps its policy; look with `balancer status` which others have it too"
                )
            })?;
        }
        Ok(())
    }

    /// As `first`, if that was taken over and no policy is given.
    fn steer(self, found: &FoundGroup, first: Option<&Begun>) -> Result<Begun> {
        let Self { args, store, log_level } = self;
        let waited = waited(found)?;
        claim::refuse_steered(store, &found.identity)?;
        let name = claim::name(store, args.name.as_deref(), &found.identity)?;
        let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
        let (policy, options) = match first {
            Some(first) if args.policy.is_none() => {
                let group = first.steering().group()?;
                (group.policy, group.options)
            }
            _ => self.policy(),
        };
        let (flows, counted) = self.counted(&found.identity);
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
            service: args.service,
        };
        let (watcher, admits) = (self.watcher(found)?, self.admits(found, |_| true));
        let (attachment, logs) =
            Attachment::begin(store, &name, &group, found, watcher, args.replace, admits)
                .map_err(with_remedy)?;
        Ok(Begun { attachment, logs, waited, is_taken_over: false })
    }

    fn take_over(self, found: &FoundGroup) -> Result<Begun> {
        let Self { args, store, log_level } = self;
        let (identity, name, service) = (&found.identity, args.name.as_deref(), args.service);
        let default = group::default_name(identity.protocol, identity.address);
        let waited = waited(found)?;
        let (mut steering, group) =
            takeover::take_over(store, identity, name, &default, Of::Others(service))?;
        takeover::note_log_level(&group, log_level);
        if args.service.is_none() {
            takeover::switch(&mut steering, args.policy, args.options.options())?;
        }
        let (logs, members) = (steering.logs()?, steering.members()?);
        // Others may have been held back.
        let admits = self.admits(found, |cookie| members.iter().any(|m| m.cookie == cookie));
        let attachment = Attachment::of(steering, group.identity, self.watcher(found)?, admits);
        Ok(Begun { attachment, logs, waited, is_taken_over: true })
    }

    fn watcher(self, found: &FoundGroup) -> Result<GroupWatcher> {
        Ok(GroupWatcher::new(super::netns(self.args)?, found))
    }

    fn admits(self, found: &FoundGroup, is_member: impl Fn(u64) -> bool) -> Admits {
        let members = found.sockets.iter().filter(|socket| is_member(socket.cookie));
        let commands = members.filter_map(|socket| Some(socket.worker.as_ref()?.command.clone()));
        let admission = Admission::new(self.args.admit, commands);
        Box::new(move |command: &str| admission.admits(command))
    }

    /// Which group of a service it was that could not be steered.
    fn explain(self, identity: &GroupIdentity, error: anyhow::Error) -> anyhow::Error {
        match self.args.service {
            None => error,
            Some(service) if self.args.takeover => error.context(format!(
                "{identity} cannot be taken over, so the service {service} is left as it was found"
            )),
            Some(service) => error.context(format!(
                "{identity} cannot be steered, so no address of the service {service} is"
            )),
        }
    }
}

/// The connections that wait to be accepted, before any listener has its place.
fn waited(found: &FoundGroup) -> Result<Cookies> {
    let holders = found.sockets.iter().flat_map(|socket| &socket.holders);
    Ok(existing::waiting(&found.identity, holders.map(|holder| holder.process))?)
}

/// Gives back what has begun. What an earlier agent left stays as that left it.
pub fn give_back(begun: Vec<Begun>, store: &Store) {
    for one in begun.into_iter().rev().filter(|one| !one.is_taken_over) {
        if let Ok(group) = one.steering().group()
            && group.replaced
        {
            tracing::warn!(
                "the program that steered {} was detached and cannot be put back, so the kernel's hash \
                 chooses there now",
                group.identity
            );
        }
        if let Err(error) = end(one.attachment, store) {
            tracing::error!("{error:#}");
        }
    }
}

/// Gives one back.
///
/// # Errors
/// Says how to do it, if it cannot be done now.
pub fn end(attachment: Attachment, store: &Store) -> Result<()> {
    let name = attachment.steering().name().to_owned();
    attachment.end(store).with_context(|| {
        format!("{name} stays attached; give it back with `balancer detach --group {name}`")
    })
}
