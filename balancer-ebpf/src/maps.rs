//! The maps, and the few ways in which the programs touch them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_CLONE, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
    },
    btf_maps::{Array, LruHashMap, PerCpuArray, reuseport_sock_array::ReusePortSockArrayImpl},
    helpers::bpf_sk_select_reuseport,
    macros::btf_map,
    programs::SkReuseportContext,
};
use balancer_ebpf::{
    MAX_CLOSING, MAX_MOVED, MAX_SLOTS,
    control::Control,
    draw,
    record::{AgentRecord, GroupRecord, LoadRecord, MemberRecords, Misses, Place, SlotCounters},
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
static CURSOR: Array<u64, 4> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<SlotCounters, { MAX_SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
static MISSES: PerCpuArray<Misses, 1> = PerCpuArray::new();

#[btf_map]
static RANDOM: PerCpuArray<u64, 2> = PerCpuArray::new();

#[btf_map]
static LOAD: Array<LoadRecord, { MAX_SLOTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static REPORTED: Array<u64, { MAX_SLOTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static MOVED: LruHashMap<u64, u32, { MAX_MOVED as usize }> = LruHashMap::new();

#[btf_map]
static CLOSING: LruHashMap<u64, u32, { MAX_CLOSING as usize }> = LruHashMap::new();

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
static GROUP: Array<GroupRecord, 1> = Array::new();

#[btf_map]
static MEMBERS: Array<MemberRecords, 1> = Array::new();

#[btf_map]
static AGENT: Array<AgentRecord, 1> = Array::new();

#[btf_map]
static ACCEPTED: Array<u64, { MAX_SLOTS as usize }> = Array::new();

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

/// When a SYN cookie was last seen to come back, in jiffies.
#[inline(always)]
pub fn cookies() -> Option<&'static mut u64> {
    // SAFETY: the pointer is into the map, and a word is read and written in one step.
    CURSOR.get_ptr_mut(2).map(|seen| unsafe { &mut *seen })
}

/// Where the socket array has the addresses of its sockets, found once: it stays there.
#[inline(always)]
pub fn pointers(find: impl FnOnce() -> u64) -> u64 {
    let Some(known) = CURSOR.get_ptr_mut(3) else { return 0 };
    // SAFETY: the pointer is into the map, and a word is read and written in one step.
    let known = unsafe { &mut *known };
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
pub fn slot_of() -> *mut c_void {
    (&raw const SLOT_OF).cast_mut().cast()
}

/// How much a slot has to do.
#[inline(always)]
pub fn load(slot: u32) -> Option<&'static mut LoadRecord> {
    // SAFETY: the pointer is into the map. Others write the record at the same time, each word in one
    // step; the verifier knows no other aliasing.
    LOAD.get_ptr_mut(slot).map(|load| unsafe { &mut *load })
}

/// A slot's load in its worker's own words.
#[inline(always)]
pub fn reported(slot: u32) -> Option<u64> {
    REPORTED.get(slot).copied()
}

/// The slot of a listener that closes just now.
#[inline(always)]
pub fn closing(listener: u64) -> Option<u32> {
    // SAFETY: read at once, before anybody can take its place.
    unsafe { CLOSING.get(listener) }.copied()
}

/// Notes that a listener closes. Where that fails, what waits at it stays counted for its slot.
#[inline(always)]
pub fn set_closing(listener: u64, slot: u32) {
    let _ = CLOSING.insert(listener, slot, 0);
}

/// Notes where a connection belongs. Where that fails it is counted for the slot it came by.
#[inline(always)]
pub fn set_moved(connection: u64, slot: u32) {
    let _ = MOVED.insert(connection, slot, 0);
}

/// Where a connection belongs that migrated.
#[inline(always)]
pub fn moved(connection: u64) -> Option<u32> {
    // SAFETY: as in `closing`.
    unsafe { MOVED.get(connection) }.copied()
}

/// As [`moved`], of one that is gone now.
#[inline(always)]
pub fn take_moved(connection: u64) -> Option<u32> {
    let slot = moved(connection)?;
    let _ = MOVED.remove(connection);
    Some(slot)
}
