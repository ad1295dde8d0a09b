//! Pinned records of a stranger's making: a group's, its members', counters. They are refused or
//! brought into range, shown without a panic, and make a table within its bounds and by the weights.

#![no_main]

use std::collections::HashMap;

use balancer::render::table;
use balancer_common::{
    LAYOUT_VERSION, MAX_MEMBERS, MAX_SLOTS, MAX_WEIGHT,
    control::Control,
    load,
    record::{AgentRecord, GroupRecord, MemberRecord, Misses, SlotCounters, SlotState, WHY_BYTES},
    stall,
    table::MAX_POSITIONS,
};
use balancer_steering::{
    agent_record::AgentState,
    group::{ForeignRecord, GroupSpec},
    options,
    policy::Shares,
    snapshot::{GroupInfo, MemberInfo, MemberState, OptionsInfo, Snapshot, Tally},
    steering::{Member, entry},
    table::{Entry, Table},
};
use libfuzzer_sys::fuzz_target;

const CPUS: u32 = 4;

/// The agent's record: whoever waits for a reload goes by it.
fn agent(bytes: &[u8]) {
    let number = |at: usize| {
        bytes
            .get(at..at + 4)
            .map_or(0, |four| four.iter().fold(0, |number, &octet| number << 8 | u32::from(octet)))
    };
    let mut why = [0; WHY_BYTES];
    why.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let mut state = AgentState::from(AgentRecord {
        workers: number(0),
        leaving: number(4),
        asked: number(8),
        begun: number(12),
        ended: number(16),
        failed: number(20),
        replaced: number(24),
        displaced: number(28),
        parallel: number(32),
        wanted: number(40),
        why,
    });
    let again = AgentState::from(AgentRecord::from(&state));
    assert!(state.why.starts_with(&again.why), "{state:?} is written as {again:?}");
    let asked = state.ask(number(36));
    state.begin();
    state.end(Some("it stopped".to_owned()));
    assert!(state.outcome(asked).is_some(), "{state:?} never ends");
}

fuzz_target!(|bytes: &[u8]| {
    agent(bytes);
    let mut bytes = Bytes(bytes);
    // The corpus outlives the layout.
    let record = GroupRecord { version: LAYOUT_VERSION, ..bytes.take() };
    let later = GroupRecord { version: LAYOUT_VERSION + 1, ..record };
    assert_eq!(GroupSpec::try_from(later), Err(ForeignRecord::Version(LAYOUT_VERSION + 1)));
    let Ok(group) = GroupSpec::try_from(record) else { return };
    assert_eq!(GroupSpec::try_from(GroupRecord::from(group)), Ok(group));

    let (word, misses, counters): (u64, Misses, SlotCounters) =
        (bytes.take(), bytes.take(), bytes.take());
    let control = Control::unpack(word);
    assert_eq!(Control::unpack(control.pack()), control);
    let threshold = options::stall_ticks(group.options);
    let stalled = stall::is_stalled(word, 7, threshold);

    // A few records may stand for many members.
    let count = u32::from(bytes.take::<u16>()) % (MAX_SLOTS + 1);
    let mut records: Vec<MemberRecord> = Vec::new();
    while !bytes.0.is_empty() {
        records.push(bytes.take());
    }
    let members: Vec<Member> =
        (0..count).zip(records.iter().copied().cycle()).map(Member::from).collect();
    for member in &members {
        assert!((1..=MAX_WEIGHT).contains(&member.weight.get()));
    }

    let infos = members.iter().map(|member| MemberInfo {
        slot: member.slot,
        pid: member.worker.pid,
        weight: member.weight.get(),
        state: if stalled { MemberState::Stalled } else { MemberState::Live },
        open: Some(load::open(word).into()),
        busy: None,
        unattended: stalled.then_some(1),
        load: None,
        tally: Tally {
            selected: counters.selected,
            migrated: counters.migrated,
            established: counters.selected,
        },
    });
    let snapshot = Snapshot {
        group: GroupInfo {
            name: "web".to_owned(),
            protocol: group.identity.protocol,
            address: group.identity.address.to_string(),
            netns: group.identity.netns,
            service: group.service,
        },
        policy: group.policy,
        options: OptionsInfo::from(group.options),
        members: infos.clone().take(8).collect(),
        fallback: misses.fallback,
        errors: misses.errors,
        left: infos.take(3).collect(),
        unasked: 0,
        displaced: 0,
        counted: group.counted,
        flows: None,
    };
    for shown in [table::status(&snapshot), table::summary(&snapshot)] {
        assert!(shown.contains(snapshot.policy.name()));
    }
    assert!(serde_json::to_string(&snapshot).is_ok());

    let live = members.iter().filter(|member| member.state == SlotState::Live);
    let entries: Vec<Entry> = live
        .map(|member| entry(member, &group, word, |pid| Some(pid % CPUS)))
        .take(MAX_MEMBERS as usize)
        .collect();
    // A table takes milliseconds; everything else does not wait for it.
    if word.is_multiple_of(8) {
        check(&entries, group.policy.shares());
    }
});

/// How many times the least weight all of them are together, where a table is still short.
const SHORT: u32 = 600;

/// How many members' clients are spread, over the same 65,537 positions however few they are: with
/// more of them, looking for a free one takes so long that little else is tried.
const FEW: usize = 3;

fn check(entries: &[Entry], shares: Shares) {
    let entries =
        if shares == Shares::ByClient { &entries[..FEW.min(entries.len())] } else { entries };
    let weights = || entries.iter().map(|entry| entry.weight);
    // A million positions take a tenth of a second; the property tests of the table build such.
    if weights().sum::<u32>() > SHORT * weights().min().unwrap_or(1) {
        return;
    }
    let table = Table::build(entries, shares, CPUS);
    assert!(table.sequence.len() <= MAX_POSITIONS as usize);
    assert_eq!(table.sequence.is_empty(), entries.is_empty());
    assert_eq!(table.members, entries.iter().map(|entry| entry.slot).collect::<Vec<_>>());
    assert!(table.weights.iter().all(|&weight| weight > 0));
    let mut counts: HashMap<u32, u64> = HashMap::new();
    for slot in &table.sequence {
        *counts.entry(*slot).or_default() += 1;
    }
    let total: u64 = table.weights.iter().sum();
    let length = table.sequence.len() as u64;
    for entry in entries {
        let positions = counts.remove(&entry.slot).unwrap_or_default();
        if shares == Shares::ByWeight {
            assert!(positions > 0, "slot {} is starved", entry.slot);
            // Exact where the table is the round; else rounded, up to one more for each member.
            let off = (positions * total).abs_diff(entry.share() * length);
            assert!(off == 0 || off <= total * entries.len() as u64, "{entry:?} has {positions}");
        }
    }
    assert!(counts.is_empty(), "the table has slots of nobody");
}

/// What is left of the input; of what is lacking, zeros.
struct Bytes<'a>(&'a [u8]);

/// What every bit pattern is a value of.
trait Plain: Default {}
impl Plain for u16 {}
impl Plain for u64 {}
impl Plain for GroupRecord {}
impl Plain for MemberRecord {}
impl Plain for Misses {}
impl Plain for SlotCounters {}

impl Bytes<'_> {
    fn take<T: Plain>(&mut self) -> T {
        let mut value = T::default();
        let (taken, rest) = self.0.split_at(size_of::<T>().min(self.0.len()));
        // SAFETY: no more octets than the value has, into a value of which any octets are one.
        unsafe {
            std::ptr::copy_nonoverlapping(taken.as_ptr(), (&raw mut value).cast(), taken.len());
        }
        self.0 = rest;
        value
    }
}
