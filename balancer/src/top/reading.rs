//! What is known of the groups at one moment. Requests are tracked as long as this is there.

use std::{collections::BTreeMap, time::Instant};

use anyhow::Result;
use balancer_steering::{
    adoption::settling,
    group::Protocol,
    policy::Policy,
    requests::Requests,
    service::ServiceName,
    snapshot::Snapshot,
    steering::{Observation, Steering, Store},
};

use crate::operations;

/// A group at one moment.
#[derive(Clone, Debug)]
pub struct GroupReading {
    /// When.
    pub at: Instant,
    /// How it is.
    pub snapshot: Snapshot,
    /// Its members' requests; `None` while they are not tracked.
    pub requests: Option<Vec<Requests>>,
    /// The policies that it can be switched to with the options in force.
    pub policies: Vec<Policy>,
}

/// Reads groups, again and again.
pub struct Reader {
    store: Store,
    group: Option<String>,
    service: Option<ServiceName>,
    observation: Option<Observation>,
    /// Why requests are not tracked, if so.
    pub unobserved: Option<String>,
    /// The groups that could not be read the last time, by name, with the reason.
    pub unread: BTreeMap<String, String>,
}

impl Reader {
    /// Of one group, of those of a service, or of all.
    pub fn new(store: Store, group: Option<String>, service: Option<ServiceName>) -> Self {
        let (unobserved, unread) = (None, BTreeMap::new());
        Self { store, group, service, observation: None, unobserved, unread }
    }

    /// All groups, by name, without those that cannot be read. One that goes away meanwhile is left out.
    ///
    /// # Errors
    /// Returns an error if the groups cannot be listed.
    pub fn read(&mut self) -> Result<Vec<GroupReading>> {
        let mut names = self.store.names()?;
        names.retain(|name| self.group.as_ref().is_none_or(|group| group == name));
        names.sort_unstable();
        self.unread.clear();
        if names.is_empty() {
            (self.observation, self.unobserved) = (None, None);
            return Ok(Vec::new());
        }
        self.observe();
        let mut readings = Vec::new();
        for name in names {
            match read_group(&self.store, &name) {
                Ok(reading) if self.is_shown(&reading) => readings.push(reading),
                Ok(_) => {}
                // Given back to the kernel since it was listed.
                Err(_) if !self.store.directory(&name).exists() => {}
                Err(error) => {
                    self.unread.insert(name, format!("{error:#}"));
                }
            }
        }
        Ok(readings)
    }

    fn is_shown(&self, reading: &GroupReading) -> bool {
        self.service.is_none() || self.service == reading.snapshot.group.service
    }

    /// What tracked requests is gone if all groups went, and came again.
    fn observe(&mut self) {
        if self.observation.is_some() && self.store.is_tracking() {
            return;
        }
        // Not after the next has begun: the end of the last would take the tracker off.
        self.observation = None;
        match self.store.observe() {
            Ok(observation) => {
                (self.observation, self.unobserved) = (Some(observation), None);
            }
            Err(error) => {
                self.unobserved = Some(format!("{:#}", anyhow::Error::from(error)));
            }
        }
    }
}

fn read_group(store: &Store, name: &str) -> Result<GroupReading> {
    let steering = Steering::open(store, name)?;
    let snapshot = settling::snapshot(&steering)?;
    let requests = match snapshot.group.protocol {
        Protocol::Tcp => steering.requests()?,
        Protocol::Udp => None,
    };
    let (group, reloading) = (steering.group()?, steering.agent_state()?.is_reloading());
    let is_possible = |policy: &Policy| {
        let members = &snapshot.members;
        let check = operations::check_policy;
        !policy.is_reference()
            && check(name, &group, *policy, group.options, members, reloading).is_ok()
    };
    let policies = Policy::ALL.into_iter().filter(is_possible).collect();
    Ok(GroupReading { at: Instant::now(), snapshot, requests, policies })
}
