//! A map of 64-bit words that lies in this process's memory too: read and written without a system
//! call, each word in one step, while programs do the same.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::error::{Context as _, Result};
use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The words.
#[derive(Debug)]
pub(super) struct SharedWords {
    map: MapData,
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is this value's until it is dropped, and only accessed as atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps a pinned array, made with `BPF_F_MMAPABLE`, whose values are so many words each.
    ///
    /// # Errors
    /// Returns an error if it is not there, or not such an array.
    pub fn open(path: &Path, words_each: usize) -> Result<Self> {
        let map = MapData::from_pin(path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
        let info =
            map.info().with_context(|| format!("cannot query the map {}", path.display()))?;
        crate::error::ensure!(
            info.value_size() as usize == words_each * size_of::<u64>(),
            "the pinned map {} is not like those of this version of balancer",
            path.display()
        );
        let count = info.max_entries() as usize * words_each;
        // SAFETY: a new mapping, at a place of the kernel's choice. It fails where the array is
        // shorter, and is given back in `drop` only.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                count * size_of::<u64>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd().as_fd(),
                0,
            )
        };
        let start = start
            .with_context(|| format!("cannot map {} into memory", path.display()))?
            .cast::<AtomicU64>();
        let words = NonNull::new(start).context("the kernel mapped a map at address 0")?;
        Ok(Self { map, words, count })
    }

    /// The map.
    pub fn map(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// How many words there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A word.
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: inside the mapping, aligned, and lives as long as `self`.
        unsafe { self.words.add(index).as_ref() }
    }

    /// So many words, from one on.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn slice(&self, first: usize, count: usize) -> &[AtomicU64] {
        let end = first.checked_add(count);
        assert!(
            end.is_some_and(|end| end <= self.count),
            "words {first} + {count} of {}",
            self.count
        );
        // SAFETY: inside the mapping, aligned, and lives as long as `self`; other writers are no matter to
        // atomics.
        unsafe { std::slice::from_raw_parts(self.words.add(first).as_ptr(), count) }
    }

    /// A word's value.
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Stores a word.
    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: what `open` mapped, and nobody can have a reference into it any more.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

/// A map's only value in this process's memory, to be read and not to be written, for the rest of this
/// process's life. The kernel refuses to make such memory writable later.
#[derive(Debug)]
pub(super) struct ReadOnly {
    start: NonNull<AtomicU32>,
    length: usize,
}

// SAFETY: the memory is mapped for good, and only accessed as atomics.
unsafe impl Send for ReadOnly {}
// SAFETY: as above.
unsafe impl Sync for ReadOnly {}

impl ReadOnly {
    /// Maps an array that was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// Returns an error if it is no such array.
    pub fn of(map: &MapData) -> Result<Self> {
        let length = map.info().context("cannot read about a map")?.value_size() as usize;
        // SAFETY: a new mapping, at a place of the kernel's choice, and never given back.
        let start = unsafe {
            let (prot, flags) = (ProtFlags::READ, MapFlags::SHARED);
            mmap(ptr::null_mut(), length, prot, flags, map.fd().as_fd(), 0)
        };
        let start = start.context("cannot map a map into memory")?.cast();
        let start = NonNull::new(start).context("the kernel mapped a map to nowhere")?;
        Ok(Self { start, length })
    }

    /// The 32 bits at an offset.
    ///
    /// # Panics
    /// If they are not in the value.
    pub fn number(&self, offset: usize) -> u32 {
        let index = offset / size_of::<u32>();
        assert!(offset + size_of::<u32>() <= self.length, "offset {offset} of {}", self.length);
        // SAFETY: inside the mapping, which lasts, and aligned.
        unsafe { self.start.add(index).as_ref() }.load(Ordering::Relaxed)
    }
}
