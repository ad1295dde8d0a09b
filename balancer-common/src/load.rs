//! How much a slot has to do, and which of two has less.
//!
//! A count is one word, so that it is read and changed in one step: connections that are open in its
//! lower half, those on their way in its upper. When a handshake is through, the counting program moves
//! the connection from one to the other; until then the choice itself has reserved a place for it, or a
//! burst of SYNs would all see the same least loaded slot.

/// One connection that is open.
pub const OPEN: u64 = 1;

/// One connection that was chosen for and is not open yet.
pub const PENDING: u64 = 1 << 32;

/// Choices that may be under way at once, about one a CPU: a count that lies further above the
/// kernel's own is wrong, however busy the slot.
const UNDER_WAY: i32 = 256;

/// A slot whose last choice is that many jiffies old has no choice under way: 32 ms at least, since the host
/// of a virtual machine may take its CPU away in the middle of one.
const QUIET: u32 = 32;

/// The largest load that is told apart from a larger one, and that of a slot that is not to be chosen.
/// Weights times this, and twice their difference, stay in 63 bits.
pub const MAX_LOAD: u64 = 1 << 46;

/// The largest weight that loads are compared by.
pub const MAX_SHARE: u32 = 1 << 15;

/// What counts as a slot's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    /// The policy does not ask.
    #[default]
    None = 0,
    /// Connections, open and on their way.
    Connections = 1,
    /// What waits in its socket's queue.
    Queue = 2,
    /// What its worker says.
    Reported = 3,
    /// Requests that it has not answered.
    Requests = 4,
    /// Connections of its worker, in all groups of the service.
    ServiceConnections = 5,
    /// Requests that its worker has not answered, in all groups of the service.
    ServiceRequests = 6,
}

/// The lower half of a word: of a number that counts on, enough to tell it from those close to it.
#[inline(always)]
pub const fn lower(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// Connections that are open.
#[inline(always)]
pub const fn open(count: u64) -> u32 {
    lower(count)
}

/// Connections on their way. Below zero where two CPUs took back the same reservation, until
/// [`correction`].
#[inline(always)]
#[expect(clippy::cast_possible_wrap, reason = "it is meant to: see the doc")]
pub const fn pending(count: u64) -> i32 {
    (count >> 32) as u32 as i32
}

/// Connections, open and on their way.
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "negative ones are masked")]
pub fn connections(count: u64) -> u64 {
    let pending = pending(count) as i64;
    open(count) as u64 + (pending as u64 & !if_negative(pending))
}

/// Requests that a slot has yet to answer: connections that owe one, new ones, which are about to ask, and
/// those on their way. `count` is of connections, `work` of [`crate::request`].
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "negative ones are masked")]
pub fn requests(work: u64, count: u64) -> u64 {
    let not_negative = |half: u32| {
        let half = half.cast_signed() as i64;
        half as u64 & !if_negative(half)
    };
    // The halves borrow from each other only for a moment.
    not_negative(lower(work)) + not_negative(lower(work >> 32)) + not_negative(lower(count >> 32))
}

/// What to add to a count that has not as many on their way as the kernel knows of, and must be wrong:
/// nobody is told of handshakes that never come to their end. `half_open` is the kernel's own number,
/// or `None` where it cannot be read; then reservations lapse. `since` is the age of the last choice in
/// jiffies.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "halves of a word wrap")]
pub const fn correction(count: u64, half_open: Option<u32>, since: u32) -> u64 {
    let pending = pending(count);
    let (known, quiet, under_way) = match half_open {
        Some(half_open) => (half_open as i32, QUIET, UNDER_WAY),
        None => (0, LAPSE, i32::MAX),
    };
    if since < quiet && pending >= 0 && pending <= known.saturating_add(under_way) {
        return 0;
    }
    (known.wrapping_sub(pending) as u32 as u64) << 32
}

/// How old in jiffies the last choice is when reservations lapse where nothing better is known: a
/// second at least.
const LAPSE: u32 = 1024;

/// Whether a queue has no room for one more connection, counting those on their way to it. The kernel
/// drops what comes while more than `limit` wait (`sk_acceptq_is_full`).
#[inline(always)]
pub fn is_full(waiting: u32, on_their_way: i32, limit: u32) -> bool {
    let pending = on_their_way as i64;
    let pending = pending & !(if_negative(pending).cast_signed());
    waiting as i64 + pending > limit as i64
}

/// Age in jiffies of the last choice from which on a connection without a reservation was not chosen
/// for: a quarter of a second at least, in which a reservation may have been taken back that was right.
const UNASKED: u32 = 256;

/// Whether a connection was established on a slot for which no choice had been made. `chosen` is when
/// the slot was last chosen, 0 for never: then this one may have been under way before.
#[inline(always)]
pub const fn is_unasked(count: u64, chosen: u32, now: u32) -> bool {
    pending(count) <= 0 && chosen != 0 && now.wrapping_sub(chosen) >= UNASKED
}

/// The kernel notes that it sends cookies once a second at most, a thousand jiffies; their way is
/// not longer.
const COOKIE_SENT: u32 = 4096;

/// Whether a plain ACK may bring a SYN cookie back, where the kernel last sent one at `sent`, the lower
/// half of jiffies.
#[inline(always)]
pub const fn may_be_cookie(sent: u32, now: u64) -> bool {
    sent != 0 && lower(now).wrapping_sub(sent) < COOKIE_SENT
}

/// SYN cookies that came back this many jiffies ago are in use still: a quarter of a second at least.
const COOKIES_LAST: u64 = 256;

/// Whether SYN cookies are in use, where one was last seen to come back at `seen`; 0 for never.
#[inline(always)]
pub const fn are_in_use(seen: u64, now: u64) -> bool {
    seen != 0 && now.wrapping_sub(seen) < COOKIES_LAST
}

/// Whether a load is less than another, each relative to its weight.
#[inline(always)]
pub const fn is_less_loaded(load: u64, weight: u64, than: u64, its_weight: u64) -> bool {
    load * its_weight < than * weight
}

/// The least loaded slot seen so far in a scan.
///
/// All arithmetic and no branch: the verifier follows a loop path by path, and thousands of turns with
/// two ways each are more than it does.
#[derive(Clone, Copy, Debug)]
pub struct Least {
    slot: u64,
    load: u64,
    weight: u64,
    distance: u64,
}

impl Default for Least {
    fn default() -> Self {
        Self { slot: 0, load: MAX_LOAD, weight: 1, distance: u64::MAX >> 1 }
    }
}

impl Least {
    /// Takes a slot in if it has less to do by its weight than the least so far, or as much and is
    /// nearer. `load` is at most [`MAX_LOAD`]. `barred` is all ones for one that is not to be chosen, else 0.
    #[inline(always)]
    #[expect(clippy::cast_possible_wrap, reason = "all are below 2⁶³, see `MAX_LOAD`")]
    pub fn or(self, slot: u32, load: u64, weight: u64, distance: u32, barred: u64) -> Self {
        let barred = barred | if_zero(weight);
        let load = (load & !barred) | (MAX_LOAD & barred);
        let weight = weight | (barred & 1);
        let (distance, slot) = (distance as u64, slot as u64);
        // Below zero where it is lighter, or as light and nearer.
        let lighter = (load * self.weight) as i64 - (self.load * weight) as i64;
        let nearer = if_negative(distance as i64 - self.distance as i64);
        let take = if_negative(2 * lighter + nearer as i64);
        Self {
            slot: (slot & take) | (self.slot & !take),
            load: (load & take) | (self.load & !take),
            weight: (weight & take) | (self.weight & !take),
            distance: (distance & take) | (self.distance & !take),
        }
    }

    /// As one number, for a function of the kernel's returns no more.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.load << SLOT_BITS) | self.slot
    }

    /// Slot and load out of [`Least::pack`]; `None` where none was there to be chosen.
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Option<(u32, u64)> {
        let load = packed >> SLOT_BITS;
        if load >= MAX_LOAD { None } else { Some(((packed & SLOT_MASK) as u32, load)) }
    }
}

const SLOT_BITS: u32 = 16;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const _: () = assert!(crate::MAX_SLOTS as u64 <= SLOT_MASK + 1);

/// All ones below zero, else 0. On the BPF target an instruction that the compiler does not see
/// through, or it would make a branch of it.
#[inline(always)]
#[expect(clippy::cast_sign_loss, reason = "a mask")]
pub fn if_negative(value: i64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let mask = {
        let mut mask = value;
        // SAFETY: an arithmetic shift of a register.
        unsafe {
            core::arch::asm!("{0} s>>= 63", inout(reg) mask, options(pure, nomem, nostack));
        }
        mask
    };
    #[cfg(not(target_arch = "bpf"))]
    let mask = value >> 63;
    mask as u64
}

/// All ones for 0, else 0; for what is less than 2⁶³.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, reason = "said above")]
fn if_zero(value: u64) -> u64 {
    if_negative((value as i64).wrapping_sub(1))
}

/// What a worker says its load is, as far as loads are told apart.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, reason = "half of it is below 2⁶³")]
pub fn reported(word: u64) -> u64 {
    let below = if_negative((word >> 1) as i64 - (MAX_LOAD >> 1) as i64);
    (word & below) | (MAX_LOAD & !below)
}

const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_RECV: u32 = 3;
const TCP_CLOSE_WAIT: u32 = 8;

/// Whether a connection in that state is its worker's (states: `include/net/tcp_states.h`): from the end
/// of the handshake until the worker closes it. That the client has closed its side changes nothing for
/// the worker, and what the kernel does after both have is no load. `SYN_RECV` is a connection by TCP
/// Fast Open, which the worker may have accepted already.
#[inline(always)]
pub const fn is_open(state: u32) -> bool {
    matches!(state, TCP_ESTABLISHED | TCP_SYN_RECV | TCP_CLOSE_WAIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(open: u32, pending: i32) -> u64 {
        u64::from(open) | (u64::from(pending.cast_unsigned()) << 32)
    }

    fn corrected(count: u64, half_open: u32, since: u32) -> u64 {
        count.wrapping_add(correction(count, Some(half_open), since))
    }

    proptest! {
        #[test]
        fn a_count_keeps_its_halves_apart(open_now in 1..u32::MAX - 1, on_their_way: i16) {
            let on_their_way = i32::from(on_their_way);
            let word = count(open_now, on_their_way);
            let read = |word| (open(word), pending(word));
            prop_assert_eq!(read(word.wrapping_add(PENDING)), (open_now, on_their_way + 1));
            let established = word.wrapping_add(OPEN).wrapping_sub(PENDING);
            prop_assert_eq!(read(established), (open_now + 1, on_their_way - 1));
            prop_assert_eq!(read(word.wrapping_sub(OPEN)), (open_now - 1, on_their_way));
        }

        #[test]
        fn a_quiet_slot_has_as_many_on_their_way_as_the_kernel(
            open_now: u32, on_their_way: i16, half_open in 0..100_000u32,
        ) {
            let word = corrected(count(open_now, on_their_way.into()), half_open, QUIET);
            prop_assert_eq!(word, count(open_now, half_open.cast_signed()));
        }

        #[test]
        fn choices_under_way_are_left_alone(open_now: u32, half_open in 0..1000u32, under_way in 0..64i32) {
            let word = count(open_now, half_open.cast_signed() + under_way);
            prop_assert_eq!(correction(word, Some(half_open), 0), 0);
            prop_assert_eq!(correction(word, None, LAPSE - 1), 0);
            prop_assert_eq!(word.wrapping_add(correction(word, None, LAPSE)), count(open_now, 0));
        }

        #[test]
        fn lighter_is_a_strict_order_of_load_by_weight(
            a in 0..MAX_LOAD, b in 0..MAX_LOAD, wa in 1..20_000u64, wb in 1..20_000u64,
        ) {
            let exact = u128::from(a) * u128::from(wb) < u128::from(b) * u128::from(wa);
            prop_assert_eq!(is_less_loaded(a, wa, b, wb), exact);
        }
    }

    proptest! {
        #[test]
        fn the_least_is_the_first_of_the_lightest_in_turn(
            members in prop::collection::vec((0..6u64, 0..4u64, any::<bool>()), 1..40),
            start in 0..40u32,
        ) {
            let start = start % u32::try_from(members.len()).unwrap();
            let scanned = (0..).zip(&members).fold(Least::default(), |least, (index, member)| {
                let &(load, weight, barred) = member;
                let barred = if barred { u64::MAX } else { 0 };
                least.or(index, load, weight, index.wrapping_sub(start), barred)
            });
            // Said plainly: go round from the start, and let a later one win only if it is lighter.
            let mut plain: Option<(u32, u64, u64)> = None;
            let turn = (0..).zip(&members).skip(start as usize)
                .chain((0..).zip(&members).take(start as usize));
            for (slot, &(load, weight, barred)) in turn {
                let lighter = plain.is_none_or(|(_, l, w)| is_less_loaded(load, weight, l, w));
                if !barred && weight > 0 && lighter {
                    plain = Some((slot, load, weight));
                }
            }
            let expected = plain.map(|(slot, load, _)| (slot, load));
            prop_assert_eq!(Least::unpack(scanned.pack()), expected);
        }

        #[test]
        fn a_load_beyond_all_bounds_is_that_of_one_not_to_be_chosen(load: u64, weight in 1..=u64::from(MAX_SHARE)) {
            let least = Least::default().or(7, reported(load), weight, 0, 0);
            let expected = (load < MAX_LOAD).then_some((7, load));
            prop_assert_eq!(Least::unpack(least.pack()), expected);
            let other = least.or(8, 0, 1, 1, 0);
            prop_assert_eq!(Least::unpack(other.pack()), Some((if load == 0 { 7 } else { 8 }, 0)));
        }
    }

    #[test]
    fn a_leak_is_mended_even_where_a_slot_is_never_quiet() {
        assert_eq!(connections(corrected(count(5, 100_000), 3, 0)), 8);
        assert_eq!(connections(corrected(count(5, -1), 3, 0)), 8);
    }

    #[test]
    fn an_ack_may_bring_a_cookie_back_only_if_one_was_sent_of_late() {
        assert!(may_be_cookie(u32::MAX - 5, (1 << 40) + 10) && !may_be_cookie(0, 10));
        assert!(!may_be_cookie(100, (1 << 32) + 100 + 4096));
    }

    #[test]
    fn cookies_are_in_use_for_a_while_after_one_came_back() {
        assert!(are_in_use(1000, 1000) && are_in_use(1000, 1255));
        assert!(!are_in_use(1000, 1256) && !are_in_use(0, 10));
    }

    #[test]
    fn fewer_than_none_on_their_way_are_none() {
        assert_eq!(connections(count(7, -3)), 7);
    }

    #[test]
    fn a_connection_counts_from_its_handshake_until_its_worker_closes_it() {
        let open: Vec<u32> = (1..=12).filter(|&state| is_open(state)).collect();
        assert_eq!(open, [TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT]);
    }

    #[test]
    fn a_queue_is_full_when_those_on_their_way_would_find_no_room() {
        assert!(!is_full(0, 0, 0) && is_full(1, 0, 0) && is_full(0, 1, 0));
        assert!(!is_full(3, 2, 5) && is_full(3, 3, 5) && is_full(6, -4, 5));
    }

    #[test]
    fn only_a_connection_long_after_the_last_choice_was_not_chosen_for() {
        assert!(is_unasked(count(5, 0), 1000, 1256) && is_unasked(count(5, -1), 1000, 1256));
        assert!(!is_unasked(count(5, 1), 1000, 1256) && !is_unasked(count(5, 0), 1000, 1255));
        assert!(!is_unasked(count(5, 0), 0, 1256));
    }
}
