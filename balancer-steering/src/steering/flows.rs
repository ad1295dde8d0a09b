//! A group's flows: the programs that see their workers answer, and what the table holds.

use std::{
    collections::HashMap,
    os::fd::AsFd as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::programs::CgroupSockAddr;
use balancer_common::{
    flow::{self, SET},
    maps,
    record::Flow,
};

use super::{
    bpf, cgroup, host::named, object, shared::SharedWords, state::monotonic,
    undisturbed::undisturbed,
};
use crate::{
    error::{Context as _, Result},
    flows::Flows,
    group::GroupSpec,
};

// Of `enum bpf_attach_type` (`linux/bpf.h`).
const UDP4_SENDMSG: u32 = 14;
const UDP6_SENDMSG: u32 = 15;

/// The programs, where each is attached, and how its link is pinned.
const ANSWERED: [(&str, u32, &str); 2] = [
    ("bal_answered4", UDP4_SENDMSG, "answered4-link"),
    ("bal_answered6", UDP6_SENDMSG, "answered6-link"),
];

/// Lets the kernel tell of each datagram that a worker sends, for as long as the group is pinned.
///
/// # Errors
/// Returns an error if there is no cgroup2 to be had, or the kernel refuses.
pub(super) fn start(directory: &Path, group: &GroupSpec) -> Result<()> {
    let mut ebpf = object::load_over(directory, group)?;
    let root = cgroup::root()?;
    for (name, kind, pin) in ANSWERED {
        let program: &mut CgroupSockAddr = named(&mut ebpf, name)?.try_into()?;
        undisturbed(|| program.load()).map_err(|error| object::explain(name, error))?;
        let link = bpf::attach(program.fd()?.as_fd(), root.as_fd(), kind)
            .context("the kernel refuses a program on the root of cgroup2")?;
        let pin = directory.join(pin);
        bpf::pin(link.as_fd(), &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
    }
    Ok(())
}

/// The table.
#[derive(Debug)]
pub(super) struct FlowTable {
    words: SharedWords,
    flows: Flows,
}

const WORDS: usize = size_of::<Flow>() / size_of::<u64>();

impl FlowTable {
    /// Opens it under a group's directory.
    ///
    /// # Errors
    /// Returns an error if it is not there, or of another size.
    pub fn open(directory: &Path, flows: Flows) -> Result<Self> {
        let words = SharedWords::open(&directory.join(maps::FLOWS), WORDS)?;
        Ok(Self { words, flows })
    }

    /// How many flows go on, by slot and the cookie of the socket there.
    pub fn open_flows(&self) -> HashMap<(u32, u64), u64> {
        let (now, timeouts) = (flow::ticks(monotonic()), self.flows.timeouts());
        let mut open = HashMap::new();
        for (index, flow) in self.words.slice(0, self.words.count()).chunks(WORDS).enumerate() {
            let [key, tenant, state] = flow else { continue };
            let word = |word: &AtomicU64| word.load(Ordering::Acquire);
            let key = word(key);
            if key == 0 || index.is_multiple_of(SET as usize) {
                continue;
            }
            let flow = read(key, word(tenant), word(state));
            if flow::is_open(&flow, now, timeouts) {
                *open.entry((flow.slot.into(), flow.tenant)).or_default() += 1;
            }
        }
        open
    }
}

/// A flow out of its words.
fn read(key: u64, tenant: u64, state: u64) -> Flow {
    let [a, b, c, d, e, f, asked, answered] = state.to_ne_bytes();
    let (seen, slot) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
    Flow { key, tenant, seen, slot, asked, answered }
}
