//! What workers say of their load: a word of each, in a map of its own. A worker has a descriptor of that
//! map, and so could do anything to it (change it, freeze it); to the words of others it can do nothing.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use balancer_common::{maps, record::SlotState};

use super::{Steering, bpf, directory, host, maps::pinned, shared::SharedWords};
use crate::{
    error::{Context as _, Result},
    metric::Metric,
};

/// Says the load of a slot.
#[derive(Clone, Debug)]
pub struct Reporter(Arc<SharedWords>);

impl Reporter {
    /// Says it, in any unit that all members share: a store into memory that programs read.
    pub fn report(&self, load: u64) {
        self.0.set(0, load);
    }
}

impl Steering {
    fn word_pin(&self, slot: u32) -> PathBuf {
        self.directory.join(format!("{}-{slot}", maps::REPORTED))
    }

    fn words(&self) -> Result<host::Outer> {
        host::outer(pinned(&self.directory, maps::REPORTED)?, maps::REPORTED)
    }

    /// Takes the word of a slot's earlier worker away. Its new one has a word of its own from the
    /// beginning in a group that goes by that.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses a map.
    pub(super) fn renew_word(&self, slot: u32) -> Result<()> {
        // Else its place may be another group's.
        if !self.is_pinned() {
            return Ok(());
        }
        let pin = self.word_pin(slot);
        let had = pin.exists();
        directory::remove_pin(&pin)?;
        if self.goes_by_words()? {
            return self.give_word(slot);
        }
        // To change a map of maps takes a grace period.
        if had { Ok(self.words()?.remove(&slot)?) } else { Ok(()) }
    }

    /// Gives every member a word that has none, if the group goes by them.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses a map.
    pub(super) fn complete_words(&self) -> Result<()> {
        if !self.goes_by_words()? {
            return Ok(());
        }
        let members = self.all_slots()?.into_iter();
        let present = members.filter(|member| member.state != SlotState::Vacant);
        let mut lacking = present.filter(|member| !self.word_pin(member.slot).exists());
        lacking.try_for_each(|member| self.give_word(member.slot))
    }

    fn goes_by_words(&self) -> Result<bool> {
        Ok(self.is_pinned() && self.group()?.options.load == Metric::Reported)
    }

    fn give_word(&self, slot: u32) -> Result<()> {
        let pin = self.word_pin(slot);
        let word = bpf::create_word().context("the kernel refuses a map for a worker's load")?;
        let number = u32::try_from(word.as_raw_fd())?;
        self.words()?.insert(slot, number, 0).context("cannot store a worker's word")?;
        bpf::pin(word.as_fd(), &pin).with_context(|| format!("cannot pin {}", pin.display()))
    }

    /// Where the worker of a slot may say its load, to be mapped into its memory; `None` in a group that
    /// does not go by that.
    ///
    /// # Errors
    /// Returns an error if no descriptor is to be had.
    pub fn report_descriptor(&self, slot: u32) -> Result<Option<OwnedFd>> {
        if !self.goes_by_words()? {
            return Ok(None);
        }
        bpf::open(&self.word_pin(slot)).map(Some).context("cannot open a worker's word")
    }

    /// Where the load of a slot is said, by a plain store; also for a group that may go by that later.
    ///
    /// # Errors
    /// Returns an error if the kernel refuses a map.
    pub fn reporter(&self, slot: u32) -> Result<Reporter> {
        let pin = self.word_pin(slot);
        if !pin.exists() {
            self.give_word(slot)?;
        }
        SharedWords::open(&pin, 1).map(|word| Reporter(Arc::new(word)))
    }

    /// Says a slot's load in its worker's place, see [`Metric::Reported`].
    ///
    /// # Errors
    /// Returns an error if the kernel refuses a map.
    pub fn report(&self, slot: u32, load: u64) -> Result<()> {
        self.reporter(slot).map(|reporter| reporter.report(load))
    }

    /// What a slot's worker says its load is; 0 if it has no word.
    pub fn reported(&self, slot: u32) -> u64 {
        let mut load = 0;
        if let Ok(word) = bpf::open(&self.word_pin(slot)) {
            // SAFETY: a word is 64 bits, whoever wrote what into it.
            let _ = unsafe { bpf::look_up(word.as_fd(), 0, &raw mut load) };
        }
        load
    }
}
