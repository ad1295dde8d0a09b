//! Tests of the pure part of the benchmark: a target of its own, for `cargo test` runs no benchmark.

mod statistics;

use crate::statistics::{Spread, rotation};

#[test]
fn quartiles_divide_the_sorted_rounds() {
    let spread = Spread::of(vec![5.0, 1.0, 2.0, 3.0, 40.0]);
    assert_eq!((spread.median, spread.quartiles, spread.range), (3.0, [2.0, 5.0], [1.0, 40.0]));
    assert_eq!(spread.rounds, [5.0, 1.0, 2.0, 3.0, 40.0]);
}

#[test]
fn between_two_rounds_quartiles_are_in_proportion() {
    let spread = Spread::of(vec![4.0, 0.0]);
    assert_eq!((spread.median, spread.quartiles, spread.range), (2.0, [1.0, 3.0], [0.0, 4.0]));
}

#[test]
fn one_round_is_its_own_median_and_none_has_none() {
    let spread = Spread::of(vec![7.0]);
    assert_eq!((spread.median, spread.quartiles, spread.range), (7.0, [7.0; 2], [7.0; 2]));
    assert!(Spread::of(vec![]).median.is_nan());
}

#[test]
fn pairs_are_combined_round_by_round() {
    // The difference of the medians would be 11.
    let spread = Spread::of_pairs(&[10.0, 20.0, 40.0], &[9.0, 19.0, 9.0], |a, b| a - b);
    assert_eq!(spread.rounds, [1.0, 1.0, 31.0]);
    assert_eq!(spread.median, 1.0);
}

#[test]
fn every_contender_has_every_place_once() {
    let orders: Vec<Vec<usize>> = (0..3).map(|round| rotation(3, round).collect()).collect();
    assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
}
