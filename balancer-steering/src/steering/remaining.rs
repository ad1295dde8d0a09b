//! What slots that get no new connections have left: by what is counted for them, and by the kernel's
//! own listing of handshakes. No process is looked at, and a look costs the same however many
//! connections there are.

use std::{
    collections::HashSet,
    fmt,
    os::fd::AsFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::error::{Result, ensure};
use balancer_common::{load, maps};

use super::{Member, Steering, directory, flows::FlowTable, host::Host, loads::Loads};
use crate::{
    discovery::{self, Activity, Cookies},
    group::{GroupIdentity, Protocol},
};

/// How often the kernel is asked for a listing.
const LISTING: Duration = Duration::from_millis(100);

/// How many times as long as it took a listing of connections is not repeated.
const RARER: u32 = 20;

/// What is left of a member's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Open, those that wait to be accepted included; UDP: flows that have not ended.
    pub open: u64,
    /// UDP: octets that wait to be read.
    pub queued: u64,
    /// Handshakes that were under way in the group when it was looked at first. The kernel does not
    /// tell with which member, so each counts until it is through or given up.
    pub arriving: usize,
    /// What those that are open are about, as it was last listed; `None` before.
    pub about: Option<About>,
}

/// What open connections are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// How many owe an answer, or have data that were not read or not delivered.
    pub busy: u64,
    /// How long no data have come or gone on any of them.
    pub quiet: Duration,
}

impl Remaining {
    /// Whether nothing is left.
    pub fn is_nothing(self) -> bool {
        self.open == 0 && self.queued == 0 && self.arriving == 0
    }

    /// Whether what is left are connections that owe nothing, and on which nothing has come or gone for
    /// that long.
    pub fn is_idle_for(self, grace: Duration) -> bool {
        let idle = |about: About| about.busy == 0 && about.quiet >= grace;
        self.queued == 0 && self.arriving == 0 && self.about.is_some_and(idle)
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { open, queued, arriving, about } = self;
        write!(f, "{open} open")?;
        if *queued > 0 {
            return write!(f, ", {queued} octets in its queue");
        }
        if let Some(About { busy, .. }) = about.filter(|about| about.busy < *open) {
            write!(f, ", {busy} of them busy")?;
        }
        if *arriving > 0 { write!(f, ", {arriving} on their way") } else { Ok(()) }
    }
}

/// Looks at what some members have left, again and again.
#[derive(Debug)]
pub struct Watch {
    group: GroupIdentity,
    name: String,
    directory: PathBuf,
    inode: u64,
    members: Vec<Member>,
    /// Cookies of all members' sockets.
    everybody: HashSet<u64>,
    loads: Loads,
    flows: Option<FlowTable>,
    arriving: Option<Cookies>,
    queued: u64,
    going_on: u64,
    listed: Option<Instant>,
    host: Host,
    /// What it was about, and when that is to be listed again.
    about: Option<About>,
    again: Option<Instant>,
}

impl Steering {
    /// Begins to watch members that are out of the table. Each connection that the table before gave
    /// them is at least half-open by now.
    ///
    /// # Errors
    /// Returns an error if their connections are not counted.
    pub fn watch(&self, slots: &[u32]) -> Result<Watch> {
        let group = self.group()?;
        ensure!(
            group.counted || group.identity.protocol == Protocol::Udp,
            "the connections of {} are not counted, so it is not known what a worker has left; start the \
             group again with counting",
            self.name
        );
        let mut members = self.members()?;
        let everybody = members.iter().map(|member| member.cookie).collect();
        members.retain(|member| slots.contains(&member.slot));
        Ok(Watch {
            group: group.identity,
            name: self.name.clone(),
            directory: self.directory.clone(),
            inode: self.inode,
            members,
            everybody,
            loads: Loads::open(&self.directory)?,
            flows: group.flows.map(|flows| FlowTable::open(&self.directory, flows)).transpose()?,
            arriving: None,
            queued: 0,
            going_on: 0,
            listed: None,
            host: self.host.clone(),
            about: None,
            again: None,
        })
    }
}

impl Watch {
    /// What is left now.
    ///
    /// # Errors
    /// Returns an error if the kernel does not list handshakes, or the group is not steered any more.
    pub fn look(&mut self) -> Result<Remaining> {
        // First, so that a handshake that ends meanwhile is seen there or is open already.
        self.list()?;
        let open = self.open();
        self.list_about(open)?;
        Ok(Remaining {
            open,
            about: self.about,
            queued: self.queued,
            arriving: self.arriving.as_ref().map_or(0, Cookies::len),
        })
    }

    fn open(&self) -> u64 {
        if self.group.protocol == Protocol::Udp {
            return self.going_on;
        }
        let open = |member: &Member| self.loads.open_of(member.slot, member.cookie);
        self.members.iter().map(open).sum()
    }

    /// Lists what open connections are about. The more there are, the less often.
    fn list_about(&mut self, open: u64) -> Result<()> {
        let begun = Instant::now();
        let tcp = self.group.protocol == Protocol::Tcp;
        if open == 0 || !tcp || self.again.is_some_and(|again| begun < again) {
            return Ok(());
        }
        let workers = self.members.iter().map(|member| member.worker);
        let (places, epoch) = (self.host.map(maps::SLOT_OF)?, self.host.tracker_epoch());
        let all = discovery::activities(&self.group, workers, places.fd().as_fd(), epoch)?;
        let moved = self.host.moved()?;
        let ours = |activity: &&Activity| {
            let is_ours = |cookie| self.members.iter().any(|member| member.cookie == cookie);
            let Some(tenant) = activity.tenant else { return false };
            if self.everybody.contains(&tenant) {
                return is_ours(tenant);
            }
            // One that migrated carries the place of a listener that is gone.
            let elsewhere = moved.get(&activity.connection.cookie, 0).ok();
            elsewhere.is_some_and(|place| is_ours(place.tenant))
        };
        let ours: Vec<&Activity> = all.iter().filter(ours).collect();
        // Whoever is missing may be busy: the kernel's listing is no snapshot.
        let missing = open.saturating_sub(ours.len() as u64);
        let busy = ours.iter().filter(|activity| activity.busy).count() as u64;
        self.about = Some(About {
            busy: busy + missing,
            quiet: ours.iter().map(|activity| activity.quiet).min().unwrap_or_default(),
        });
        self.again = Some(begun + LISTING.max(begun.elapsed() * RARER));
        Ok(())
    }

    fn list(&mut self) -> Result<()> {
        if self.listed.is_some_and(|listed| listed.elapsed() < LISTING) {
            return Ok(());
        }
        self.listed = Some(Instant::now());
        ensure!(
            directory::inode(&self.directory).is_ok_and(|inode| inode == self.inode),
            "{} was given back to the kernel's hash, so its connections are no longer counted",
            self.name
        );
        let workers = || self.members.iter().map(|member| member.worker);
        if self.group.protocol == Protocol::Udp {
            let queues = discovery::queues(&self.group, workers())?;
            let waiting = |member: &Member| u64::from(*queues.get(&member.cookie).unwrap_or(&0));
            self.queued = self.members.iter().map(waiting).sum();
            if let Some(flows) = &self.flows {
                let open = flows.open_flows();
                let of = |member: &Member| open.get(&(member.slot, member.cookie)).copied();
                self.going_on = self.members.iter().filter_map(of).sum();
            }
            return Ok(());
        }
        match &mut self.arriving {
            Some(none) if none.is_empty() => {}
            arriving => {
                let now = discovery::arriving(&self.group, workers())?;
                match arriving {
                    None => *arriving = Some(now),
                    Some(known) => known.retain(|cookie| now.contains(cookie)),
                }
            }
        }
        Ok(())
    }
}

impl Loads {
    /// Connections open for a slot, while it is that socket's.
    fn open_of(&self, slot: u32, cookie: u64) -> u64 {
        if self.tenant(slot) == cookie { load::open(self.count(slot)).into() } else { 0 }
    }
}
