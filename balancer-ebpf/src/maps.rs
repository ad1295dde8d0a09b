//! The maps, and the few ways in which the programs touch them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
    },
    btf_maps::{
        Array, ArrayOfMaps, HashMap, PerCpuArray, reuseport_sock_array::ReusePortSockArrayImpl,
    },
    helpers::bpf_sk_select_reuseport,
    macros::btf_map,
    programs::SkReuseportContext,
};
use balancer_common::{
    MAX_GROUPS, MAX_MOVED, MAX_SLOTS,
    control::Control,
    draw, flow,
    load::lower,
    record::{
        AgentRecord, EARLY_LOOKS, EarlyLook, Flow, GroupRecord, LoadRecord, MemberRecords, Misses,
        Place, RequestTimes, SlotCounters, Tag,
    },
    table,
};

// The value is 64 bits wide because only then userspace can read an entry back: as the socket's
// cookie.
#[btf_map]
static SOCKETS: ReusePortSockArrayImpl<u64, { MAX_SLOTS as usize }> = ReusePortSockArrayImpl::new();

#[btf_map]
static TABLE: Array<u64, { table::WORDS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static CONTROL: Array<u64, 1> = Array::new();

#[btf_map]
static CURSOR: Array<u64, 6> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<SlotCounters, { MAX_SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
static MISSES: PerCpuArray<Misses, 1> = PerCpuArray::new();

#[btf_map]
static RANDOM: PerCpuArray<u64, 2> = PerCpuArray::new();

type Loads = Array<LoadRecord, { MAX_SLOTS as usize }, { BPF_F_MMAPABLE as usize }>;

#[btf_map]
static LOAD: Loads = Loads::new();

#[btf_map]
static GROUPS: ArrayOfMaps<Loads, { MAX_GROUPS as usize }> = ArrayOfMaps::new();

// A map for each worker: it holds a descriptor of it, and with a descriptor one has the whole map.
#[btf_map]
static REPORTED: ArrayOfMaps<Array<u64, 1, { BPF_F_MMAPABLE as usize }>, { MAX_SLOTS as usize }> =
    ArrayOfMaps::new();

#[btf_map]
static MOVED: HashMap<u64, Tag, { MAX_MOVED as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
static BEFORE: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static TRACKER: Array<u64, 3, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static TIMES: Array<RequestTimes, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

// As long as userspace makes it.
#[btf_map]
static FLOWS: Array<Flow, { flow::SET as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static SLOTS: HashMap<u64, u32, { MAX_SLOTS as usize }> = HashMap::new();

#[btf_map]
static EARLY: PerCpuArray<EarlyLook, { EARLY_LOOKS as usize + 1 }> = PerCpuArray::new();

/// aya's own type for it has no room for `BPF_F_CLONE`. As it is for every map, the fields are read
/// by their types.
#[repr(C)]
struct SlotOf {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
    max_entries: *const [i32; 0],
    key: *const i32,
    value: *const Place,
}

// SAFETY: nobody reads it; it stands for the map that the loader makes of it.
unsafe impl Sync for SlotOf {}

#[btf_map]
static SLOT_OF: SlotOf = SlotOf {
    r#type: core::ptr::null(),
    map_flags: core::ptr::null(),
    max_entries: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
};

// Userspace's own notes. They stand here so that one object makes and one directory pins them all.
#[btf_map]
static GROUP: Array<GroupRecord, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static MEMBERS: Array<MemberRecords, 1> = Array::new();

#[btf_map]
static AGENT: Array<AgentRecord, 1> = Array::new();

/// The live table.
#[inline(always)]
pub fn live() -> Option<Control> {
    let word = CONTROL.get_ptr(0)?;
    // SAFETY: the pointer is into the map. Volatile, because the word must be read once: half and
    // lengths belong together.
    Some(Control::unpack(unsafe { word.read_volatile() }))
}

/// The slot at a position of the live sequence.
#[inline(always)]
pub fn slot_at(live: Control, position: u32) -> Option<u32> {
    let word = TABLE.get(live.half.sequence_word(position))?;
    Some(table::unpack_slot(*word, position))
}

/// The slot at an index of the live member list.
#[inline(always)]
pub fn member_at(live: Control, index: u32) -> Option<u32> {
    let word = TABLE.get(live.half.member_word(index))?;
    Some(table::unpack_slot(*word, index))
}

/// The value of a counter, 0 or 1, which no other call gets.
#[inline(always)]
pub fn tick(counter: u32) -> Option<u64> {
    let cursor = CURSOR.get_ptr_mut(counter)?;
    // SAFETY: the pointer is into the map, and everybody else adds atomically too.
    Some(add(unsafe { &mut *cursor }, 1))
}

/// Adds to a word of a map, which others may do at the same time; returns what it was.
#[inline(always)]
pub fn add(word: &mut u64, more: u64) -> u64 {
    // SAFETY: a reference is aligned and points to somewhere. AcqRel, because LLVM turns a relaxed
    // add into one that does not fetch: the result would be wrong, silently.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(word, more) }
}

/// Of the cursor: when a SYN cookie was last seen to come back, in jiffies.
pub const COOKIES: u32 = 2;
const POINTERS: u32 = 3;
/// Of the cursor: when a packet was last looked at before its delivery, in jiffies.
pub const LOOKED_EARLY: u32 = 4;

/// Of the cursor: how many sets of flows were swept.
pub const SWEEPS: u32 = 5;

/// A word of the cursor.
#[inline(always)]
pub fn cursor(index: u32) -> Option<&'static mut u64> {
    // SAFETY: the pointer is into the map, and a word is read and written in one step.
    CURSOR.get_ptr_mut(index).map(|word| unsafe { &mut *word })
}

/// Where the socket array has the addresses of its sockets, found once: it stays there.
#[inline(always)]
pub fn pointers(find: impl FnOnce() -> u64) -> u64 {
    let Some(known) = cursor(POINTERS) else { return 0 };
    if *known == 0 {
        *known = find();
    }
    *known
}

/// Reads a word of a map, in the order of the program and once.
#[inline(always)]
pub fn read(word: &u64) -> u64 {
    // SAFETY: a reference is aligned and points to somewhere.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// The next state of this CPU's random numbers.
#[inline(always)]
pub fn random_state() -> Option<u64> {
    // SAFETY: the pointer is into the map, and on this CPU nobody else has it meanwhile.
    let state = RANDOM.get_ptr_mut(0).map(|state| unsafe { &mut *state })?;
    *state = draw::next_state(*state);
    Some(*state)
}

/// The number of this CPU's turn, by counter 0 or 1; the first is the same word, which no policy uses
/// for both.
#[inline(always)]
pub fn turn(counter: u32) -> Option<u64> {
    // SAFETY: as in `random_state`.
    let turns = RANDOM.get_ptr_mut(counter).map(|turns| unsafe { &mut *turns })?;
    *turns = turns.wrapping_add(1);
    Some(*turns)
}

/// Chooses the socket of a slot; 0, or the helper's negative error.
#[inline(always)]
pub fn select(ctx: &SkReuseportContext, mut slot: u32) -> i64 {
    // SAFETY: context and map are the verifier's to check, the key is on our stack.
    unsafe {
        bpf_sk_select_reuseport(
            ctx.as_ptr().cast(),
            (&raw const SOCKETS).cast_mut().cast(),
            (&raw mut slot).cast(),
            0,
        )
    }
}

/// This CPU's counters of a slot. Nothing preempts a program on its CPU, so plain adds do.
#[inline(always)]
pub fn counters(slot: u32) -> Option<&'static mut SlotCounters> {
    // SAFETY: the pointer is into the map, and on this CPU nobody else has it meanwhile.
    COUNTERS.get_ptr_mut(slot).map(|counters| unsafe { &mut *counters })
}

/// This CPU's counters of what was left to the kernel.
#[inline(always)]
pub fn misses() -> Option<&'static mut Misses> {
    // SAFETY: as in `counters`.
    MISSES.get_ptr_mut(0).map(|misses| unsafe { &mut *misses })
}

/// The address of the socket array.
#[inline(always)]
pub fn sockets() -> *const c_void {
    (&raw const SOCKETS).cast()
}

/// The map of the sockets' places.
#[inline(always)]
pub fn place_of() -> *mut c_void {
    (&raw const SLOT_OF).cast_mut().cast()
}

/// What is known of a slot.
#[inline(always)]
pub fn load(slot: u32) -> Option<&'static mut LoadRecord> {
    // SAFETY: the pointer is into the map. Others write the record at the same time, each word in one
    // step; the verifier knows no other aliasing.
    LOAD.get_ptr_mut(slot).map(|load| unsafe { &mut *load })
}

/// As [`load`], of a slot of whichever group of the host.
#[inline(always)]
pub fn load_of(group: u32, slot: u32) -> Option<&'static mut LoadRecord> {
    // SAFETY: as in `load`.
    GROUPS.get_value_ptr_mut(group, &slot).map(|load| unsafe { &mut *load })
}

/// A slot's load in its worker's own words. Each member has a word in a group that goes by them.
#[inline(always)]
pub fn reported(slot: u32) -> Option<u64> {
    REPORTED.get_value(slot, &0).map(read)
}

/// A flow, or the head of a set of them.
#[inline(always)]
pub fn flow(index: u32) -> Option<&'static mut Flow> {
    // SAFETY: as in `load`.
    FLOWS.get_ptr_mut(index).map(|flow| unsafe { &mut *flow })
}

/// The slot of a listener, by its cookie.
#[inline(always)]
pub fn slot_of_listener(cookie: u64) -> Option<u32> {
    // SAFETY: read at once, before anybody can take its place.
    unsafe { SLOTS.get(cookie) }.copied()
}

/// Notes where a connection belongs that migrated; false where there is no room.
#[inline(always)]
pub fn set_moved(connection: u64, tag: Tag) -> bool {
    MOVED.insert(connection, tag, 0).is_ok()
}

/// Where a connection belongs that migrated.
#[inline(always)]
pub fn moved(connection: u64) -> Option<Tag> {
    // SAFETY: as in `slot_of_listener`.
    unsafe { MOVED.get(connection) }.copied()
}

/// As [`moved`], of one that is gone now.
#[inline(always)]
pub fn take_moved(connection: u64) -> Option<Tag> {
    let tag = moved(connection)?;
    let _ = MOVED.remove(connection);
    Some(tag)
}

/// How many connections are open that were so before counting began.
#[inline(always)]
pub fn before() -> Option<&'static mut u64> {
    // SAFETY: as in `cursor`.
    BEFORE.get_ptr_mut(0).map(|before| unsafe { &mut *before })
}

/// The epoch of the request tracker; 0 while there is none.
#[inline(always)]
pub fn epoch() -> u32 {
    TRACKER.get(0).map_or(0, |epoch| lower(read(epoch)))
}

/// A member's times.
#[inline(always)]
pub fn times(record: &LoadRecord) -> Option<&'static mut RequestTimes> {
    let index = lower(record.times).checked_sub(1)?;
    // SAFETY: as in `load`.
    TIMES.get_ptr_mut(index).map(|times| unsafe { &mut *times })
}

/// What this CPU has looked at before its delivery. By a look-up for each, since to step through a value
/// is arithmetic with pointers, which the kernel does not take from everybody.
#[inline(always)]
pub fn early(index: u32) -> Option<&'static mut EarlyLook> {
    // SAFETY: as in `counters`.
    EARLY.get_ptr_mut(index).map(|early| unsafe { &mut *early })
}
