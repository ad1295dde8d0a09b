//! What all groups of a host share, pinned beside them: the program that counts connections, and the
//! maps that it finds groups and agents by. There from the first group to the last.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use crate::error::{Context as _, Result, bail, error};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, SkStorage},
    programs::{
        CgroupSock, Program, SockOps,
        links::{FdLink, PinnedLink},
    },
};
use balancer_common::{
    MAX_WATCHES, maps,
    record::{Place, Tag, Watch},
};

use super::{bpf, cgroup, directory, maps::unfit, object, undisturbed::undisturbed};
use crate::process::Identity;

const COUNTER: &str = "bal_count";
const RELEASE: &str = "bal_release";

// Of `enum bpf_attach_type` (`linux/bpf.h`).
const SOCK_OPS: u32 = 3;
const INET_SOCK_RELEASE: u32 = 34;

/// A map that holds maps.
pub(super) type Outer = HashMap<MapData, u32, u32>;

/// A map that holds maps, to be changed. The commands by key are the same for every kind of map, and
/// aya's form of them for hash maps takes the descriptor of a map as a value.
///
/// # Errors
/// Returns an error if it is none.
pub(super) fn outer(map: MapData, name: &str) -> Result<Outer> {
    HashMap::try_from(Map::HashMap(map)).with_context(|| unfit(name))
}

/// The directory of what is shared, which need not be there.
#[derive(Clone, Debug)]
pub(super) struct Host {
    directory: PathBuf,
}

impl Host {
    /// On a bpffs.
    pub fn on(bpffs: &Path) -> Self {
        Self { directory: directory::shared(bpffs) }
    }

    /// Of a group, by the directory that it is pinned in.
    pub fn of(group: &Path) -> Self {
        Self { directory: directory::shared_by(group) }
    }

    /// Makes the directory, if it is not there.
    ///
    /// # Errors
    /// Returns an error if it cannot be made, or others than root could have made or can change it.
    pub fn prepare(&self) -> Result<()> {
        directory::make_directory(&self.directory)?;
        self.check()
    }

    /// Whether only root can have made and can change what is there.
    ///
    /// # Errors
    /// Names what is somebody else's.
    pub fn check(&self) -> Result<()> {
        super::trust::check_all(&self.directory)
    }

    /// Removes all of it, which ends the counting.
    ///
    /// # Errors
    /// Returns an error if a pin cannot be removed.
    pub fn remove(&self) -> Result<()> {
        directory::remove_directory(&self.directory)
    }

    /// Where all of it is pinned.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where something is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn map(&self, name: &str) -> Result<MapData> {
        super::maps::pinned(&self.directory, name)
    }

    pub(super) fn array<T: Pod>(&self, name: &str) -> Result<Array<MapData, T>> {
        Array::try_from(Map::Array(self.map(name)?)).with_context(|| unfit(name))
    }

    fn outer(&self, name: &str) -> Result<Outer> {
        outer(self.map(name)?, name)
    }

    /// The pin of a link, whichever build has made it.
    fn link(&self, program: &str) -> Option<PathBuf> {
        let pins = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let is_it = |name: &str| name.strip_prefix(program).is_some_and(|n| n.starts_with('-'));
        pins.map(|pin| pin.path())
            .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_it))
    }

    /// Whether connections are counted.
    pub fn is_counting(&self) -> bool {
        self.link(COUNTER).is_some()
    }

    /// The kernel's number of the program that counts; `None` where nothing does.
    ///
    /// # Errors
    /// Returns an error if the link cannot be read.
    pub fn counter_program(&self) -> Result<Option<u32>> {
        let Some(pin) = self.link(COUNTER) else { return Ok(None) };
        let program = || -> Result<u32> {
            Ok(FdLink::from(PinnedLink::from_pin(&pin)?).info()?.program_id())
        };
        program().map(Some).with_context(|| format!("cannot read the link {}", pin.display()))
    }

    /// Lets the kernel tell of every connection, from now on. Another build's program that does so is
    /// replaced in one step. Linux 5.7; needs CAP_NET_ADMIN and a cgroup2.
    ///
    /// # Errors
    /// Returns an error if there is no cgroup2 to be had, or the kernel refuses.
    pub fn count(&self) -> Result<()> {
        let load = |ebpf: &mut Ebpf| {
            let program: &mut SockOps = named(ebpf, COUNTER)?.try_into()?;
            undisturbed(|| program.load()).map_err(|error| object::explain(COUNTER, error))?;
            Ok(program.fd()?.as_fd().try_clone_to_owned()?)
        };
        self.start(COUNTER, SOCK_OPS, load).context("connections cannot be counted")
    }

    /// Lets connections be counted off when their process closes them: those that were open before
    /// counting began, of whose changes of state the kernel does not tell. Linux 5.9.
    ///
    /// # Errors
    /// As [`Host::count`].
    pub fn watch_closing(&self) -> Result<()> {
        let load = |ebpf: &mut Ebpf| {
            let program: &mut CgroupSock = named(ebpf, RELEASE)?.try_into()?;
            undisturbed(|| program.load()).map_err(|error| object::explain(RELEASE, error))?;
            Ok(program.fd()?.as_fd().try_clone_to_owned()?)
        };
        self.start(RELEASE, INET_SOCK_RELEASE, load)
            .context("connections that were open before cannot be counted")
    }

    /// Whether [`Host::watch_closing`] is in force.
    pub fn is_watching_closing(&self) -> bool {
        self.link(RELEASE).is_some()
    }

    /// Ends [`Host::watch_closing`] once none of those connections is open any more.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read, or the pin cannot be removed.
    pub fn rest(&self) -> Result<()> {
        match self.link(RELEASE) {
            Some(pin) if self.before()? == 0 => directory::remove_pin(&pin),
            _ => Ok(()),
        }
    }

    /// Connections that were open before counting began, and are open still.
    fn before(&self) -> Result<u64> {
        let before = super::shared::SharedWords::open(&self.directory.join(maps::BEFORE), 1)?;
        Ok(before.get(0))
    }

    /// Notes one more of those, or one less.
    ///
    /// # Errors
    /// Returns an error if the map cannot be opened.
    pub fn add_before(&self, more: u64) -> Result<()> {
        let before = super::shared::SharedWords::open(&self.directory.join(maps::BEFORE), 1)?;
        before.word(0).fetch_add(more, Ordering::AcqRel);
        Ok(())
    }

    fn start(
        &self,
        name: &str,
        kind: u32,
        load: impl FnOnce(&mut Ebpf) -> Result<OwnedFd>,
    ) -> Result<()> {
        let pin = self.directory.join(format!("{name}-{}", object::digest()?));
        if pin.exists() {
            return Ok(());
        }
        let program = load(&mut object::load_shared(&self.directory)?)?;
        if let Some(other) = self.link(name) {
            bpf::replace_program(bpf::open(&other)?.as_fd(), program.as_fd())
                .with_context(|| format!("cannot replace the program of {}", other.display()))?;
            return fs::rename(&other, &pin)
                .with_context(|| format!("cannot rename {}", other.display()));
        }
        let link = bpf::attach(program.as_fd(), cgroup::root()?.as_fd(), kind)
            .context("the kernel refuses a program on the root of cgroup2")?;
        bpf::pin(link.as_fd(), &pin).with_context(|| format!("cannot pin {}", pin.display()))
    }

    /// Lets the group of that index be found by what counts.
    ///
    /// # Errors
    /// Returns an error if the map cannot be written.
    pub fn set_group(&self, index: u32, loads: BorrowedFd<'_>) -> Result<()> {
        let loads = u32::try_from(loads.as_raw_fd())?;
        self.outer(maps::GROUPS)?
            .insert(index, loads, 0)
            .context("cannot register a group for counting connections")
    }

    /// Undoes [`Host::set_group`]: what ends later is counted nowhere. A group that comes later has
    /// another lock for its agent.
    pub fn forget_group(&self, index: u32) {
        // There may be none.
        let _ = self.outer(maps::GROUPS).map(|mut groups| groups.remove(&index));
        let _ = fs::remove_dir(self.agent(index));
    }

    /// The directory whose lock the agent of a group has; bpffs holds no files.
    pub fn agent(&self, index: u32) -> PathBuf {
        self.directory.join(format!("agent-{index}"))
    }

    /// The sockets' places.
    ///
    /// # Errors
    /// Returns an error if the map cannot be opened.
    pub fn places(&self) -> Result<SkStorage<MapData, Place>> {
        SkStorage::try_from(Map::SkStorage(self.map(maps::SLOT_OF)?))
            .with_context(|| unfit(maps::SLOT_OF))
    }

    /// The tags of connections that migrated, by cookie.
    ///
    /// # Errors
    /// Returns an error if the map cannot be opened.
    pub fn moved(&self) -> Result<HashMap<MapData, u64, Tag>> {
        HashMap::try_from(Map::HashMap(self.map(maps::MOVED)?)).with_context(|| unfit(maps::MOVED))
    }

    /// Lets this process be told, through a ring buffer of its own, of who listens on a port; the number
    /// of the watch. Under the host's lock.
    ///
    /// # Errors
    /// Returns an error if nobody counts, so nobody tells, or too many watch already.
    pub fn watch(&self, port: u16, ring: BorrowedFd<'_>) -> Result<u32> {
        if !self.is_counting() {
            bail!(
                "connections are not counted, and the program that counts them also reports new listeners"
            );
        }
        let own = Identity::of(std::process::id()).context("cannot read /proc/self/stat")?;
        let mut watches: Array<_, Watch> = self.array(maps::WATCHES)?;
        for number in 0..MAX_WATCHES {
            let Watch { pid, start, .. } = watches.get(&number, 0)?;
            if pid != 0 && (Identity { pid, start }).is_alive() {
                continue;
            }
            let ring = u32::try_from(ring.as_raw_fd())?;
            self.outer(maps::WATCHERS)?.insert(number, ring, 0)?;
            watches.set(number, Watch { start: own.start, pid: own.pid, port: port.into() }, 0)?;
            return Ok(number);
        }
        bail!("there are already {MAX_WATCHES} agents, and no more can watch")
    }

    /// Ends a watch.
    pub fn end_watch(&self, number: u32) {
        // With the last group the maps are gone.
        let _ = self.array(maps::WATCHES).map(|mut all| all.set(number, Watch::default(), 0));
        let _ = self.outer(maps::WATCHERS).map(|mut rings| rings.remove(&number));
    }
}

pub(super) fn named<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| error!("the eBPF object has no {name}"))
}
