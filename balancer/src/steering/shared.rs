//! A map of 64-bit words that lies in this process's memory too: read and written without a system
//! call, each word in one step, while programs do the same.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
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
    /// Where it is not there, or not such an array.
    pub fn open(path: &Path, words_each: usize) -> Result<Self> {
        let map = MapData::from_pin(path)
            .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
        let info = map.info().with_context(|| format!("cannot read about {}", path.display()))?;
        anyhow::ensure!(
            info.value_size() as usize == words_each * size_of::<u64>(),
            "the pinned map {} is not as this version of balancer makes it",
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
        let words = NonNull::new(start).context("the kernel mapped a map to nowhere")?;
        Ok(Self { map, words, count })
    }

    /// A descriptor of the map, for another process to map it into its memory.
    ///
    /// # Errors
    /// Where none is to be had.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.map.fd().as_fd().try_clone_to_owned()
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
