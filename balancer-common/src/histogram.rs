//! Where a time is counted: log-linear buckets, 32 to each doubling, as in HdrHistogram
//! (<https://hdrhistogram.org>). From 8 µs to 137 s a bucket is at most 3.2 % of its times wide, so that its
//! middle is at most 1.6 % off.

use crate::load::lower;

/// Buckets to each doubling, as a power of two.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;

/// Times below 2¹³ ns, 8 µs, are told apart by 256 ns.
const LINEAR_BITS: u32 = 13;

/// Times from 2³⁷ ns on, 137 s, are all counted in the last bucket.
const LAST_BITS: u32 = 37;

/// Buckets of a histogram.
pub const BUCKETS: usize = (LAST_BITS - LINEAR_BITS + 1) as usize * SUB;

/// The bucket of a time in nanoseconds; below [`BUCKETS`].
#[inline(always)]
pub const fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < 1 << LINEAR_BITS {
        return lower(nanoseconds >> (LINEAR_BITS - SUB_BITS)) as usize;
    }
    if nanoseconds >= 1 << LAST_BITS {
        return BUCKETS - 1;
    }
    let log = 63 - nanoseconds.leading_zeros();
    let octave = (log - LINEAR_BITS + 1) as usize;
    let within = lower(nanoseconds >> (log - SUB_BITS)) as usize & (SUB - 1);
    octave * SUB + within
}

/// The least time in nanoseconds of a bucket; of the one after the last, where the last ends.
#[inline(always)]
pub const fn start(bucket: usize) -> u64 {
    let (octave, within) = ((bucket / SUB) as u64, (bucket % SUB) as u64);
    if octave == 0 {
        return within << (LINEAR_BITS - SUB_BITS);
    }
    let log = LINEAR_BITS as u64 + octave - 1;
    (SUB as u64 + within) << (log - SUB_BITS as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_in_the_bucket_that_begins_at_or_below_it(nanoseconds in 0..1u64 << LAST_BITS) {
            let bucket = bucket(nanoseconds);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(start(bucket) <= nanoseconds && nanoseconds < start(bucket + 1));
        }

        #[test]
        fn from_ten_microseconds_to_a_hundred_seconds_a_bucket_is_narrower_than_five_percent(
            nanoseconds in 10_000..100_000_000_000u64,
        ) {
            let bucket = bucket(nanoseconds);
            let width = start(bucket + 1) - start(bucket);
            prop_assert!(width * 20 < start(bucket), "{width} at {nanoseconds}");
        }

        #[test]
        fn no_time_is_outside(nanoseconds: u64) {
            prop_assert!(bucket(nanoseconds) < BUCKETS);
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for number in 0..BUCKETS {
            assert_eq!(bucket(start(number)), number);
            assert_eq!(bucket(start(number + 1) - 1), number);
        }
    }
}
