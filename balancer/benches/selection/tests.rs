//! Tests of the pure part of the benchmark: a target of its own, for `cargo test` runs no benchmark.

mod statistics;

use crate::statistics::{Spread, rotation};

#[test]
fn the_median_is_the_middle_one_or_the_mean_of_the_middle_two() {
    let odd = Spread::of(vec![3.0, 1.0, 9.0]);
    assert_eq!((odd.median, odd.min, odd.max), (3.0, 1.0, 9.0));
    assert_eq!(odd.rounds, [3.0, 1.0, 9.0]);
    assert_eq!(Spread::of(vec![4.0, 1.0, 9.0, 2.0]).median, 3.0);
    assert_eq!(Spread::of(vec![7.0]).median, 7.0);
    assert!(Spread::of(vec![]).median.is_nan());
}

#[test]
fn pairs_are_combined_round_by_round() {
    // The difference of the medians would be 1.
    let spread = Spread::of_pairs(&[10.0, 20.0, 40.0], &[9.0, 19.0, 9.0], |a, b| a - b);
    assert_eq!(spread.rounds, [1.0, 1.0, 31.0]);
    assert_eq!(spread.median, 1.0);
}

#[test]
fn every_contender_has_every_place_once() {
    let orders: Vec<Vec<usize>> = (0..3).map(|round| rotation(3, round).collect()).collect();
    assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
}
