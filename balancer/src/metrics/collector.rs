//! Reads the groups when metrics are asked for. Nothing is kept between two scrapes but the count of what
//! could not be read.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::histogram;
use anyhow::{Context as _, Result};
use balancer_steering::{
    bounds::{BoundedRequests, Bounds},
    discovery::{self, Backlog},
    escape,
    service::ServiceName,
    snapshot::{MemberInfo, MemberState, Snapshot},
    steering::{Member, Observation, Steering, Store},
};

/// What is known of one group.
pub(super) struct GroupReading {
    /// All but its members.
    pub snapshot: Snapshot,
    /// Whether its agent is there; `None` if it is to have none.
    pub agent: Option<bool>,
    /// Whether its requests are tracked.
    pub observed: bool,
    /// Its members, by slot.
    pub members: Vec<MemberReading>,
}

/// What is known of one member.
pub(super) struct MemberReading {
    /// Counts and state.
    pub info: MemberInfo,
    /// What waits at its socket; `None` if that is gone, or in a namespace that cannot be looked into.
    pub backlog: Option<Backlog>,
    /// Its requests, while they are tracked.
    pub requests: Option<BoundedRequests>,
    /// The command name of its worker; empty if it is not known.
    pub command: String,
}

/// What a scrape found.
pub(super) struct Reading {
    /// When it began.
    pub began: Instant,
    /// By name.
    pub groups: Vec<GroupReading>,
    /// What could not be read since this process began.
    pub errors: u64,
}

/// Reads groups.
pub(super) struct GroupCollector {
    store: Store,
    group: Option<String>,
    service: Option<ServiceName>,
    bounds: Bounds,
    observe: bool,
    observation: Mutex<Option<Observation>>,
    errors: AtomicU64,
    /// What the last complaint was, so that it is not repeated with each scrape.
    complaint: Mutex<String>,
}

impl GroupCollector {
    /// Of one group, of those of a service, or of all.
    ///
    /// # Errors
    /// Returns an error if the groups cannot be listed, or requests cannot be tracked in those there are.
    pub fn new(
        store: &Store,
        group: Option<&str>,
        service: Option<ServiceName>,
        observe: bool,
    ) -> Result<Self> {
        let collector = Self {
            store: store.clone(),
            group: group.map(str::to_owned),
            service,
            bounds: histogram::bounds(),
            observe,
            observation: Mutex::default(),
            errors: AtomicU64::new(0),
            complaint: Mutex::default(),
        };
        if !store.names()?.is_empty() {
            collector.observe()?;
        }
        Ok(collector)
    }

    /// Sees to it that requests are tracked. What tracked them is gone if all groups went, and came again.
    fn observe(&self) -> Result<()> {
        if !self.observe {
            return Ok(());
        }
        let mut observation = self.observation.lock().unwrap_or_else(PoisonError::into_inner);
        if observation.is_none() || !self.store.is_tracking() {
            // Not after the next has begun: the end of the last would take the tracker off.
            drop(observation.take());
            *observation = Some(self.store.observe()?);
        }
        Ok(())
    }

    /// The bounds that times are counted between.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Reads all of it.
    pub fn read(&self) -> Reading {
        let began = Instant::now();
        let names = match &self.group {
            Some(name) => vec![name.clone()],
            None => self.or_count(self.store.names().map_err(Into::into)).unwrap_or_default(),
        };
        if !names.is_empty() {
            self.or_count(self.observe());
        }
        let read = |name: &String| self.or_count(read_group(&self.store, name, &self.bounds));
        let is_asked_for = |group: &GroupReading| {
            self.service.is_none() || self.service == group.snapshot.group.service
        };
        let groups = names.iter().filter_map(read).filter(is_asked_for).collect();
        Reading { began, groups, errors: self.errors.load(Ordering::Relaxed) }
    }

    /// What was read; an error is counted, and reported unless it was the last one too.
    fn or_count<T>(&self, read: Result<T>) -> Option<T> {
        let error = match read {
            Ok(read) => return Some(read),
            Err(error) => format!("{error:#}"),
        };
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if *complaint != error {
            tracing::warn!("some metrics are missing: {error}");
            *complaint = error;
        }
        None
    }
}

fn read_group(store: &Store, name: &str, bounds: &Bounds) -> Result<GroupReading> {
    let steering =
        Steering::open(store, name).with_context(|| format!("cannot read the group {name}"))?;
    let group = steering.group()?;
    let mut snapshot = steering.snapshot()?;
    let members: BTreeMap<u32, Member> =
        steering.members()?.into_iter().map(|member| (member.slot, member)).collect();
    let workers = members.values().map(|member| member.worker);
    let backlogs = discovery::backlogs(&group.identity, workers)?;
    let requests = match snapshot.counted {
        true => steering.bounded_requests(bounds)?,
        false => None,
    };
    let observed = requests.is_some();
    let requests = requests.into_iter().flatten().map(|requests| (requests.slot, requests));
    let mut requests: HashMap<u32, BoundedRequests> = requests.collect();
    let agent = match group.agent.pid {
        0 => None,
        _ => Some(steering.agent()?.is_some()),
    };
    let mut commands = HashMap::new();
    let member = |info: MemberInfo| MemberReading {
        backlog: members.get(&info.slot).and_then(|member| backlogs.get(&member.cookie).copied()),
        requests: requests.remove(&info.slot),
        command: command(&mut commands, &info),
        info,
    };
    let members = std::mem::take(&mut snapshot.members).into_iter().map(member).collect();
    Ok(GroupReading { snapshot, agent, observed, members })
}

/// The command name of a member's worker. Several members may have the same.
fn command(known: &mut HashMap<u32, String>, member: &MemberInfo) -> String {
    if member.pid == 0 || member.state == MemberState::Dead {
        return String::new();
    }
    match known.entry(member.pid) {
        Entry::Occupied(known) => known.get().clone(),
        Entry::Vacant(unknown) => {
            let name = fs::read_to_string(format!("/proc/{}/comm", member.pid));
            let name = name.unwrap_or_default();
            unknown.insert(escape::printable(name.trim_end_matches('\n')).into_owned()).clone()
        }
    }
}
