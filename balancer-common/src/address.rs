//! A client's address, as the policy `sticky` goes by it: without the port, and the same for IPv4
//! clients of an IPv4 socket and of one that takes both.

use crate::draw;

/// The 16 octets of an IPv6 address. An IPv4 one stands as IPv6 maps it: `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address([u32; 4]);

impl Address {
    /// Of an IPv4 address.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(octets)])
    }

    /// Of the halves of an IPv6 address.
    #[inline(always)]
    pub const fn v6([high, low]: [[u8; 8]; 2]) -> Self {
        const fn words([a, b, c, d, e, f, g, h]: [u8; 8]) -> [u32; 2] {
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        }
        let ([a, b], [c, d]) = (words(high), words(low));
        Self([a, b, c, d])
    }

    /// Of an IPv6 address as it lies in memory.
    #[inline(always)]
    pub const fn of_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// What the client sticks to its worker by. Not keyed: who would aim at one worker can open all
    /// connections from one address anyway.
    #[inline(always)]
    pub const fn hash(self) -> u32 {
        let [high, low] = self.halves();
        (draw::mix(draw::mix(high) ^ low) >> 32) as u32
    }

    /// The two halves, as numbers.
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [pair(a, b), pair(c, d)]
    }
}

#[inline(always)]
const fn pair(a: u32, b: u32) -> u64 {
    (a as u64) << 32 | b as u64
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn v4(address: Ipv4Addr) -> Address {
        Address::v4(address.octets())
    }

    fn v6(address: Ipv6Addr) -> Address {
        let octets = address.octets();
        Address::v6([octets[..8].try_into().unwrap(), octets[8..].try_into().unwrap()])
    }

    /// How often each of 16 parts of all hashes is met.
    fn counts(addresses: impl Iterator<Item = Address>) -> [u32; 16] {
        let mut counts = [0; 16];
        addresses.for_each(|address| counts[draw::scale(address.hash(), 16) as usize] += 1);
        counts
    }

    proptest! {
        #[test]
        fn an_ipv4_client_is_the_same_on_a_socket_that_takes_both(address: Ipv4Addr) {
            prop_assert_eq!(v4(address), v6(address.to_ipv6_mapped()));
        }

        #[test]
        fn every_bit_of_an_address_counts(address: [u32; 4], word in 0..4usize, bit in 0..32u32) {
            let mut other = address;
            other[word] ^= 1 << bit;
            // By chance, one pair in four thousand million has the same hash.
            prop_assert_ne!(Address::of_words(address).hash(), Address::of_words(other).hash());
        }

        #[test]
        fn neighbours_in_a_network_are_spread_evenly(start: u32, prefix: u64, stride in 0..64u32) {
            let ipv4 = (0..16_000).map(|i: u32| start.wrapping_add(i)).map(Ipv4Addr::from).map(v4);
            // Networks, one client each.
            let ipv6 = (0..16_000).map(|i: u64| {
                v6(Ipv6Addr::from_bits(u128::from(prefix.wrapping_add(i.rotate_left(stride))) << 64))
            });
            for counts in [counts(ipv4), counts(ipv6)] {
                // Seven standard deviations of fair draws: sqrt(n p (1 - p)) is 31.
                prop_assert!(counts.iter().all(|count| count.abs_diff(1000) < 217), "{counts:?}");
            }
        }
    }
}
