//! How a draw becomes a position. A draw whose slot turns out to be dead is repeated from the same
//! source: so the share of a dead slot falls to the others in proportion to their weights, where
//! trying the neighbouring position would hand all of it to one of them.

use crate::load::{if_negative, lower};

/// Draws before the member list is walked instead. Half of the members dead, eight draws still
/// succeed 255 times of 256.
pub const MAX_DRAWS: u32 = 8;

/// Choices to a window in which a member's share is bounded, as a power of two.
const WINDOW_BITS: u32 = 7;

/// Whether a member has had its share of the choices of a window. `window` is the member's note of the
/// last window that it was chosen in; `turn` counts all choices; the share is in percent.
#[inline(always)]
pub const fn is_beyond_share(window: u64, turn: u64, percent: u32) -> bool {
    let given = lower(window) as u64;
    let same = lower(window >> 32) == lower(turn >> WINDOW_BITS);
    same && given * 100 >= (percent as u64) << WINDOW_BITS
}

/// A member's note after one more choice.
#[inline(always)]
pub const fn chosen_in_window(window: u64, turn: u64) -> u64 {
    let number = lower(turn >> WINDOW_BITS);
    if lower(window >> 32) == number { window + 1 } else { (number as u64) << 32 | 1 }
}

/// The position of a uniform 32-bit value, without bias beyond `len / 2³²` and without a division.
/// With equal weights it is the index that the kernel itself would pick (`reciprocal_scale` in
/// `reuseport_select_sock_by_hash`, `net/core/sock_reuseport.c`). `len` 0 gives 0.
#[inline(always)]
pub const fn scale(value: u32, len: u32) -> u32 {
    ((value as u64 * len as u64) >> 32) as u32
}

/// The position of a counter's value; 0 where `len` is 0.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a remainder is below its divisor")]
pub const fn wrap(counter: u64, len: u32) -> u32 {
    if len == 0 { 0 } else { (counter % len as u64) as u32 }
}

/// Another position than `first`, and any other as likely, from a uniform 32-bit value. Where there is
/// no other, the same.
#[inline(always)]
pub const fn second(first: u32, value: u32, len: u32) -> u32 {
    if len < 2 {
        return first;
    }
    let apart = 1 + scale(value, len - 1);
    if first >= len - apart { first - (len - apart) } else { first + apart }
}

/// The hash for the `attempt`-th draw: the packet's own at first, then mixed anew each time, so
/// that the clients of a dead slot spread over all others and each always finds the same one.
/// (The finalizer of MurmurHash3 by Austin Appleby, over a Weyl sequence.)
#[inline(always)]
pub const fn rehash(hash: u32, attempt: u32) -> u32 {
    if attempt == 0 {
        return hash;
    }
    let mut mixed = hash ^ attempt.wrapping_mul(0x9e37_79b9);
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85eb_ca6b);
    mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    mixed ^ (mixed >> 16)
}

/// A number every bit of which depends on every bit of the value, and of no other value (the finalizer
/// of SplitMix64 by Steele, Lea and Flood, with the constants that David Stafford calls Mix13).
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let mut mixed = value;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How many positions of a table of `len` are each CPU's: they stand side by side. 0 where it is not
/// such a table.
#[inline(always)]
pub const fn positions_each(len: u32, cpus: u32) -> u32 {
    match len.checked_div(cpus) {
        Some(each) => each,
        None => 0,
    }
}

/// The position of a CPU's `turn`, where `each` are its own.
#[inline(always)]
pub const fn of_cpu(cpu: u32, each: u32, turn: u64) -> u32 {
    cpu * each + wrap(turn, each)
}

/// The `step`-th member of a walk over all `members` that starts at `start`.
#[inline(always)]
pub const fn from_start(start: u32, step: u32, members: u32) -> u32 {
    wrap(start as u64 + step as u64, members)
}

/// How many members' loads are compared for one choice: all of up to that many, of more those whose turn it
/// is, see [`first_compared`].
pub const COMPARED: u32 = 128;

/// The same of queues, which are read out of the kernel's memory.
pub const COMPARED_QUEUES: u32 = 16;

/// From which member on loads are compared for a choice, if so many are. Of equals the first is chosen, so it
/// is another each time; and who is not compared now is soon.
#[inline(always)]
pub const fn first_compared(turn: u64, members: u32, compared: u32) -> u32 {
    let stride = if members > compared { compared as u64 - 1 } else { 1 };
    wrap(turn.wrapping_mul(stride), members)
}

/// As [`from_start`], without a division or a branch, for less steps than there are members.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a place among members")]
pub fn beside(start: u32, step: u32, members: u32) -> u32 {
    let (place, members) = (start as u64 + step as u64, members as u64);
    let beyond = !if_negative(place.cast_signed() - members.cast_signed());
    (place - (members & beyond)) as u32
}

/// The state that follows `state` in a linear congruential generator (the multiplier and increment
/// are those of Knuth's MMIX). Its upper half, mixed with the packet's hash, is random enough to
/// spread connections, and costs a fraction of `bpf_get_prandom_u32`.
#[inline(always)]
pub const fn next_state(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// The random number for a packet of that hash: every CPU runs through the same states, and the
/// hash, which is keyed with a secret of the kernel's, makes them different numbers.
#[inline(always)]
pub const fn random(state: u64, hash: u32) -> u32 {
    (state >> 32) as u32 ^ hash
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

/// What a packet that reached the listener is to the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PacketKind {
    /// A segment that cannot become a connection: the kernel drops or resets it, whichever listener
    /// it is given, so it must neither advance a counter nor be counted.
    Stray = 0,
    /// It begins a connection.
    Syn = 1,
    /// It may bring a SYN cookie back, and begin a connection by that.
    Ack = 2,
    /// A UDP datagram.
    Datagram = 3,
    /// No packet: a connection leaves a listener that closes.
    Migration = 4,
}

/// The kind of a TCP segment (`tcp_rcv_state_process` in `net/ipv4/tcp_input.c` for a listener;
/// `tcp_v4_cookie_check` for an ACK).
#[inline(always)]
pub const fn segment_kind(tcp_flags: u8) -> PacketKind {
    match tcp_flags & (FIN | SYN | RST | ACK) {
        SYN => PacketKind::Syn,
        flags if flags & (SYN | RST | ACK) == ACK => PacketKind::Ack,
        _ => PacketKind::Stray,
    }
}

impl PacketKind {
    /// Which of two counters a rotation goes by: 1 for an ACK, which brings a SYN cookie back. The SYN
    /// before it had a turn already, which came to nothing. By one counter, SYNs would always have the
    /// one half of an even number of workers, and those who come to stay the other.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        matches!(self, Self::Ack) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn in_a_window_of_choices_a_member_gets_no_more_than_its_share(
            percent in 1..=100u32, turns in 1..1000u64, first in 0..1u64 << 40,
        ) {
            let mut window = 0;
            let mut given = std::collections::BTreeMap::<u64, u64>::new();
            for turn in first..first + turns {
                if !is_beyond_share(window, turn, percent) {
                    window = chosen_in_window(window, turn);
                    *given.entry(turn >> WINDOW_BITS).or_default() += 1;
                }
            }
            let most = (u64::from(percent) << WINDOW_BITS).div_ceil(100);
            prop_assert!(given.values().all(|&given| given <= most), "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn every_draw_is_a_position(value: u32, counter: u64, len in 1..=u32::MAX) {
            prop_assert!(scale(value, len) < len);
            prop_assert!(wrap(counter, len) < len);
        }

        #[test]
        fn a_second_position_is_another(first: u32, value: u32, len in 2..=u32::MAX) {
            let first = scale(first, len);
            let other = second(first, value, len);
            prop_assert!(other < len && other != first);
        }

        #[test]
        fn any_len_counter_values_in_a_row_meet_every_position_once(
            start in 0..u64::MAX / 2,
            len in 1..200u32,
        ) {
            let mut seen = vec![0; len as usize];
            for step in 0..u64::from(len) {
                seen[wrap(start + step, len) as usize] += 1;
            }
            prop_assert!(seen.iter().all(|&count| count == 1));
        }

        #[test]
        fn a_walk_meets_every_member_once(start: u32, members in 1..1024u32) {
            let mut seen = vec![0; members as usize];
            for step in 0..members {
                seen[from_start(start, step, members) as usize] += 1;
            }
            prop_assert!(seen.iter().all(|&count| count == 1));
        }

        #[test]
        fn beside_a_member_are_those_that_a_walk_from_it_meets(
            members in 1..1024u32, start: u32, step: u32,
        ) {
            let (start, step) = (start % members, step % members);
            prop_assert_eq!(beside(start, step, members), from_start(start, step, members));
        }

        #[test]
        fn the_turns_of_a_cpu_are_its_own_positions_and_each_comes_up(
            cpus in 1..300u32, cpu in 0..300u32, each in 1..50u32, turn in 0..u64::MAX / 2,
        ) {
            let cpu = cpu % cpus;
            prop_assert_eq!(positions_each(cpus * each, cpus), each);
            let mut turns: Vec<u32> =
                (0..u64::from(each)).map(|more| of_cpu(cpu, each, turn + more)).collect();
            turns.sort_unstable();
            prop_assert_eq!(turns, (cpu * each..(cpu + 1) * each).collect::<Vec<_>>());
        }

        #[test]
        fn a_table_of_another_policy_has_a_position_for_every_cpu(
            len in 1..1_000_000u32, cpus in 0..9000u32, cpu in 0..9000u32, turn: u64,
        ) {
            prop_assert!(of_cpu(cpu % cpus.max(1), positions_each(len, cpus), turn) < len);
        }

        #[test]
        fn the_first_hash_is_the_packets_own(hash: u32) {
            prop_assert_eq!(rehash(hash, 0), hash);
        }
    }

    #[test]
    fn clients_of_a_dead_slot_spread_over_all_others() {
        // All hashes that fall on position 0 of 4; their second draw shall be even over the four.
        let mut second = [0u32; 4];
        for hash in (0..u32::MAX / 4).step_by(9973) {
            assert_eq!(scale(hash, 4), 0);
            second[scale(rehash(hash, 1), 4) as usize] += 1;
        }
        let total: u32 = second.iter().sum();
        for count in second {
            assert!(count.abs_diff(total / 4) < total / 80, "{second:?}");
        }
    }

    #[test]
    fn random_numbers_for_one_client_are_even_and_follow_no_rotation() {
        const POSITIONS: u32 = 4;
        let (mut state, mut counts, mut pairs) = (0, [0u32; 4], [0u32; 16]);
        let mut previous = 0;
        for _ in 0..160_000 {
            state = next_state(state);
            let position = scale(random(state, 0xdead_beef), POSITIONS);
            counts[position as usize] += 1;
            pairs[(previous * POSITIONS + position) as usize] += 1;
            previous = position;
        }
        // Six standard deviations of fair draws: sqrt(n p (1 - p)) is 173 and 97.
        assert!(counts.iter().all(|count| count.abs_diff(40_000) < 1040), "{counts:?}");
        assert!(pairs.iter().all(|count| count.abs_diff(10_000) < 580), "{pairs:?}");
    }

    #[test]
    fn every_other_position_may_be_the_second() {
        let mut seen = [0; 5];
        for value in (0..u32::MAX).step_by(1 << 20) {
            seen[second(3, value, 5) as usize] += 1;
        }
        assert_eq!((seen[3], second(0, u32::MAX, 1)), (0, 0));
        assert!([0, 1, 2, 4].iter().all(|&other| (1020..=1028).contains(&seen[other])), "{seen:?}");
    }

    /// Connections open, then close at random as others open, as many as before; how far apart the members
    /// are in the end.
    fn apart(members: u32, compared: u32) -> u32 {
        let mut loads = vec![0u32; members as usize];
        let mut open = Vec::new();
        let mut state = 1;
        for turn in 0..members * 40 {
            if turn >= members * 10 {
                state = next_state(state);
                let closes = scale(random(state, 0), members * 10);
                loads[open.swap_remove(closes as usize) as usize] -= 1;
            }
            let start = first_compared(turn.into(), members, compared);
            let place = |step| beside(start, step, members);
            let least = (0..compared.min(members)).map(place).min_by_key(|&m| loads[m as usize]);
            let least = least.unwrap();
            loads[least as usize] += 1;
            open.push(least);
        }
        loads.iter().max().unwrap() - loads.iter().min().unwrap()
    }

    #[test]
    fn members_of_whom_some_are_compared_in_turn_are_nearly_as_even_as_if_all_were() {
        assert_eq!(apart(COMPARED, COMPARED), apart(COMPARED, u32::MAX));
        let (all, some) = (apart(1024, u32::MAX), apart(1024, COMPARED));
        assert!(all <= 1 && some <= 2, "{all} and {some}");
        assert!(apart(1024, 1) > 10, "it makes no difference");
    }

    #[test]
    fn an_empty_table_is_no_division_by_zero() {
        assert_eq!((scale(7, 0), wrap(7, 0), from_start(7, 7, 0)), (0, 0, 0));
    }

    #[test]
    fn only_a_syn_begins_a_connection_and_only_an_ack_may_bring_a_cookie_back() {
        const PSH: u8 = 0x08;
        const ECE_CWR: u8 = 0xc0;
        for (flags, kind) in [
            (SYN, PacketKind::Syn),
            (SYN | ECE_CWR, PacketKind::Syn),
            (ACK, PacketKind::Ack),
            (ACK | PSH, PacketKind::Ack),
            (ACK | FIN, PacketKind::Ack),
            (SYN | ACK, PacketKind::Stray),
            (SYN | FIN, PacketKind::Stray),
            (SYN | RST, PacketKind::Stray),
            (RST | ACK, PacketKind::Stray),
            (RST, PacketKind::Stray),
            (FIN, PacketKind::Stray),
            (0, PacketKind::Stray),
        ] {
            assert_eq!(segment_kind(flags), kind, "{flags:#x}");
        }
        assert_eq!((PacketKind::Syn.counter(), PacketKind::Ack.counter()), (0, 1));
    }
}
