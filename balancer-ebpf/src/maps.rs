//! The maps, and the few ways in which the programs touch them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{Array, PerCpuArray, reuseport_sock_array::ReusePortSockArrayImpl},
    helpers::bpf_sk_select_reuseport,
    macros::btf_map,
    programs::SkReuseportContext,
};
use balancer_ebpf::{
    MAX_SLOTS,
    control::Control,
    draw,
    record::{GroupRecord, MemberRecords, Misses, SlotCounters},
    table,
};

// The value is 64 bits wide because only then userspace can read an entry back: as the socket's
// cookie.
#[btf_map]
static SOCKETS: ReusePortSockArrayImpl<u64, { MAX_SLOTS as usize }> = ReusePortSockArrayImpl::new();

#[btf_map]
static TABLE: Array<u64, { table::WORDS as usize }> = Array::new();

#[btf_map]
static CONTROL: Array<u64, 1> = Array::new();

#[btf_map]
static CURSOR: Array<u64, 1> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<SlotCounters, { MAX_SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
static MISSES: PerCpuArray<Misses, 1> = PerCpuArray::new();

#[btf_map]
static RANDOM: PerCpuArray<u64, 1> = PerCpuArray::new();

// Userspace's own notes. They stand here so that one object makes and one directory pins them all.
#[btf_map]
static GROUP: Array<GroupRecord, 1> = Array::new();

#[btf_map]
static MEMBERS: Array<MemberRecords, 1> = Array::new();

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

/// The counter's value, which no other call gets.
#[inline(always)]
pub fn tick() -> Option<u64> {
    let cursor = CURSOR.get_ptr_mut(0)?;
    // SAFETY: the pointer is into the map and aligned, and everybody else adds atomically too.
    // AcqRel, because LLVM turns a relaxed add into one that does not fetch: the result would be
    // wrong, silently.
    Some(unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(cursor, 1) })
}

/// The next state of this CPU's random numbers.
#[inline(always)]
pub fn random_state() -> Option<u64> {
    // SAFETY: the pointer is into the map, and on this CPU nobody else has it meanwhile.
    let state = RANDOM.get_ptr_mut(0).map(|state| unsafe { &mut *state })?;
    *state = draw::next_state(*state);
    Some(*state)
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
