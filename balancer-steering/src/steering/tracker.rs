//! The programs of the request tracker, pinned beside what all groups share, and what they count.

use std::{fs::File, path::PathBuf, sync::atomic::Ordering};

use aya::{
    Btf, Ebpf,
    maps::{Array, MapData},
    programs::{BtfTracePoint, links::FdLink},
};
use balancer_common::{histogram::BUCKETS, load, maps, record::RequestTimes};

use super::{
    directory,
    host::{Host, named},
    object,
    shared::SharedWords,
};
use crate::{
    bounds::{BoundedCounts, Bounds},
    error::{Context as _, Result},
    requests::Histogram,
};

/// The programs, and the tracepoints that they are on.
const PROGRAMS: [(&str, &str); 3] = [
    ("bal_arrived", "tcp_probe"),
    ("bal_read", "sock_recv_length"),
    ("bal_wrote", "sock_send_length"),
];

// Words of `maps::TRACKER`.
const EPOCH: usize = 0;
const LAST_EPOCH: usize = 1;
const GIVEN: usize = 2;

impl Host {
    /// Whether the tracker is on.
    pub fn is_tracking(&self) -> bool {
        PROGRAMS.iter().all(|(program, _)| self.link_of(program).exists())
    }

    fn link_of(&self, program: &str) -> PathBuf {
        self.path(&format!("{program}-link"))
    }

    /// The epoch of the tracker; 0 if there is none.
    pub fn tracker_epoch(&self) -> u32 {
        let words = SharedWords::open(&self.path(maps::TRACKER), 1);
        words.map_or(0, |words| load::lower(words.get(EPOCH)))
    }

    /// The directory whose lock observers share.
    ///
    /// # Errors
    /// Returns an error if it is not there and cannot be made.
    pub fn observers(&self) -> Result<File> {
        let path = self.path("observers");
        directory::make_directory(&path)?;
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// Puts the tracker's programs on, with room for the times of so many members. Under the host's lock.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses one; then none is on.
    pub fn start_tracker(&self, members: u32) -> Result<()> {
        self.stop_tracker()?;
        let words = SharedWords::open(&self.path(maps::TRACKER), 1)?;
        // Not 0, which is none.
        let epoch = load::lower(words.get(LAST_EPOCH)).wrapping_add(1).max(1);
        words.set(LAST_EPOCH, epoch.into());
        words.set(GIVEN, 0);
        words.set(EPOCH, epoch.into());
        let started =
            object::load_tracker(self.directory(), epoch, members).and_then(|mut ebpf| {
                PROGRAMS.iter().try_for_each(|of| self.attach_tracker(&mut ebpf, of))
            });
        if started.is_err() {
            // What is on is taken off; why it is refused is more of use than why that failed.
            let _ = self.stop_tracker();
        }
        started.context("requests cannot be tracked")
    }

    fn attach_tracker(&self, ebpf: &mut Ebpf, (name, tracepoint): &(&str, &str)) -> Result<()> {
        let program: &mut BtfTracePoint = named(ebpf, name)?.try_into()?;
        let btf = Btf::from_sys_fs().context("cannot read the kernel's BTF")?;
        program.load(tracepoint, &btf).map_err(|error| object::explain(name, error))?;
        let link = program.attach().and_then(|id| program.take_link(id));
        let link: FdLink =
            link.with_context(|| format!("cannot attach {name} to {tracepoint}"))?.into();
        let pin = self.link_of(name);
        link.pin(&pin).with_context(|| format!("cannot pin {}", pin.display()))?;
        Ok(())
    }

    /// Takes the tracker's programs off. Under the host's lock.
    ///
    /// # Errors
    /// Returns an error if a pin cannot be removed.
    pub fn stop_tracker(&self) -> Result<()> {
        for (program, _) in PROGRAMS {
            directory::remove_pin(&self.link_of(program))?;
        }
        if let Ok(words) = SharedWords::open(&self.path(maps::TRACKER), 1) {
            words.set(EPOCH, 0);
        }
        directory::remove_pin(&self.path(maps::TIMES))
    }

    /// The times of members.
    ///
    /// # Errors
    /// Returns an error if there is no tracker, or the map cannot be opened.
    pub fn times(&self) -> Result<Times> {
        SharedWords::open(&self.path(maps::TIMES), WORDS_EACH).map(Times)
    }

    /// An element of the times that no member was given yet; `None` if there is none left.
    ///
    /// # Errors
    /// Returns an error if the map cannot be opened.
    pub fn take_times(&self, elements: &TimesElements) -> Result<Option<u32>> {
        let words = SharedWords::open(&self.path(maps::TRACKER), 1)?;
        let index = words.word(GIVEN).fetch_add(1, Ordering::AcqRel);
        Ok(u32::try_from(index).ok().filter(|&index| index < elements.count()))
    }

    /// The times of members, to give them out.
    ///
    /// # Errors
    /// As [`Host::times`].
    pub fn times_elements(&self) -> Result<TimesElements> {
        self.array(maps::TIMES).map(TimesElements)
    }
}

/// The times of members, by the map's descriptor: to map all of it takes long for one element.
pub(super) struct TimesElements(Array<MapData, RequestTimes>);

impl TimesElements {
    /// For how many members there is room.
    pub fn count(&self) -> u32 {
        self.0.len()
    }

    /// Forgets all of an element.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses.
    pub fn clear(&mut self, index: u32) -> Result<()> {
        let none = [0; BUCKETS];
        let none = RequestTimes {
            to_answer: none,
            to_read: none,
            to_first: none,
            apart_to_answer: none,
            apart_to_read: none,
        };
        self.0.set(index, none, 0).context("cannot begin a member's times")
    }
}

/// The times of members, in memory, to read them.
pub(super) struct Times(SharedWords);

/// Words of a [`RequestTimes`].
const WORDS_EACH: usize = size_of::<RequestTimes>() / size_of::<u64>();

impl Times {
    /// For how many members there is room.
    pub fn count(&self) -> u64 {
        self.0.count() as u64 / WORDS_EACH as u64
    }

    /// The times to answer, to read, and to the first answer of an element; then those to answer and to read
    /// that are counted apart.
    pub fn read(&self, index: u64) -> [Histogram; 5] {
        let start = Self::start(index);
        [0, 1, 2, 3, 4].map(|which| {
            let first = start + which * BUCKETS;
            Histogram::new((first..first + BUCKETS).map(|word| self.0.get(word)))
        })
    }

    /// As [`Times::read`], between bounds and without what is counted apart: nothing is copied but what is counted there.
    pub fn fold(&self, index: u64, bounds: &Bounds) -> [BoundedCounts; 3] {
        let start = Self::start(index);
        [0, 1, 2].map(|which| {
            let counts = self.0.slice(start + which * BUCKETS, BUCKETS);
            bounds.fold(|bucket| counts[bucket].load(Ordering::Acquire))
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "of an array in this process's memory")]
    fn start(index: u64) -> usize {
        index as usize * WORDS_EACH
    }
}
