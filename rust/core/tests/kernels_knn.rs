//! `kernels::knn` against a sort of all f64 scores. The kernel promises the very order of the f64
//! definition, so everything here is compared exactly.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]

mod kernels_common;

use kernels_common::{cases, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::knn::{KnnAccumulator, Metric, NO_ROW, Neighbours, knn};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];

fn score(metric: Metric, q: &[f32], row: &[f32]) -> f64 {
    let pairs = || q.iter().zip(row).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    let square = |x: &[f32]| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    match metric {
        Metric::Cosine => dot / (square(q).sqrt() * square(row).sqrt()),
        Metric::Dot => dot,
        Metric::L2 => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
    }
}

fn naive(
    rows: &[f32],
    queries: &[f32],
    d: usize,
    metric: Metric,
    k: usize,
) -> Vec<Vec<(f64, u64)>> {
    let nearest = |q: &[f32]| {
        let scores = rows.chunks(d).map(|row| score(metric, q, row));
        let mut all: Vec<(f64, u64)> =
            scores.zip(0..).filter(|(score, _)| score.is_finite()).collect();
        let order = |a: &(f64, u64), b: &(f64, u64)| match metric {
            Metric::L2 => a.0.total_cmp(&b.0),
            _ => b.0.total_cmp(&a.0),
        };
        all.sort_by(|a, b| order(a, b).then(a.1.cmp(&b.1)));
        all.truncate(k);
        all
    };
    queries.chunks(d).map(nearest).collect()
}

#[track_caller]
fn check(found: &Neighbours, expected: &[Vec<(f64, u64)>]) {
    for (query, expected) in expected.iter().enumerate() {
        for place in 0..found.k {
            let at = query * found.k + place;
            let Some(&(score, row)) = expected.get(place) else {
                assert_eq!(found.rows[at], NO_ROW);
                assert!(found.scores[at].is_nan());
                continue;
            };
            // The order of summation differs, so f64 rounding may swap rows that are that close.
            let same = found.rows[at] == row
                || expected.iter().any(|e| e.1 == found.rows[at] && (e.0 - score).abs() < 1e-13);
            assert!(same, "query {query} place {place}: {} not {row}", found.rows[at]);
            assert!((f64::from(found.scores[at]) - score).abs() <= 1e-6 * score.abs().max(1e-3));
        }
    }
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn equals_a_sort(
        rows in 0_usize..90, queries in 0_usize..9, d in 1_usize..20, k in 0_usize..12,
        metric in 0_usize..3, seed: u64,
    ) {
        let metric = METRICS[metric];
        let (x, q) = (uniform(seed, rows * d), uniform(seed ^ 1, queries * d));
        let found = knn(&x, &q, d, metric, k).unwrap();
        prop_assert_eq!(found.k, k.min(rows));
        prop_assert_eq!(found.rows.len(), queries * found.k);
        check(&found, &naive(&x, &q, d, metric, k));
    }

    #[test]
    fn the_cut_into_blocks_changes_nothing(cut in 1_usize..700, metric in 0_usize..3) {
        let (d, metric) = (5, METRICS[metric]);
        let (x, q) = (uniform(1, 1400 * d), uniform(2, 7 * d));
        let whole = knn(&x, &q, d, metric, 6).unwrap();
        let mut parts = KnnAccumulator::new(&q, d, metric, 6).unwrap();
        let mut blocks: Vec<_> = x.chunks(cut * d).enumerate().collect();
        blocks.reverse();
        for (block, rows) in blocks {
            if block % 2 == 0 {
                parts.push(rows, (block * cut) as u64).unwrap();
            } else {
                let mut other = KnnAccumulator::new(&q, d, metric, 6).unwrap();
                other.push(rows, (block * cut) as u64).unwrap();
                parts.merge(other).unwrap();
            }
        }
        prop_assert_eq!(parts.finish(), whole);
    }
}

#[test]
fn offsets_that_swamp_f32_do_not_change_the_order() {
    // Around 1000 in 64 dimensions, f32 products of differences of 1e-3 are all noise.
    let d = 64;
    let x: Vec<f32> = uniform(1, 600 * d).iter().map(|value| 1000.0 + value / 500.0).collect();
    let q = x[..3 * d].to_vec();
    for metric in METRICS {
        check(&knn(&x, &q, d, metric, 5).unwrap(), &naive(&x, &q, d, metric, 5));
    }
    let nearest = knn(&x, &q, d, Metric::L2, 1).unwrap();
    assert_eq!((nearest.rows, nearest.scores), (vec![0, 1, 2], vec![0.0; 3]));
}

#[test]
fn equally_near_rows_come_by_number() {
    let x = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
    for metric in METRICS {
        assert_eq!(knn(&x, &[1.0, 0.0], 2, metric, 3).unwrap().rows, [0, 2, 1]);
    }
}

#[test]
fn rows_without_a_score_are_never_found() {
    let x = [f32::NAN, 0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, 1.0];
    let found = knn(&x, &[1.0, 0.0, f32::NAN, 1.0], 2, Metric::Cosine, 9).unwrap();
    assert_eq!(found.k, 4);
    assert_eq!(found.rows[..4], [2, NO_ROW, NO_ROW, NO_ROW]);
    assert_eq!(found.rows[4..], [NO_ROW; 4]);
    // The zero row has a distance and a product, but no direction.
    assert_eq!(knn(&x, &[1.0, 0.0], 2, Metric::L2, 4).unwrap().rows, [1, 2, NO_ROW, NO_ROW]);
}

#[test]
fn huge_finite_values_are_still_compared() {
    // Products overflow f32: the screen sees infinity and NaN.
    let x = [1e30, 1e30, 1e30, -1e30, -1e30, -1e30];
    let found = knn(&x, &[1e30, 1e30], 2, Metric::Cosine, 3).unwrap();
    assert_eq!(found.rows, [0, 1, 2]);
    assert_eq!(found.scores[1], 0.0);
}

#[test]
fn does_not_depend_on_the_number_of_threads() {
    let (x, q) = (uniform(1, 5000 * 7), uniform(2, 300 * 7));
    let run = |threads| with_threads(threads, || knn(&x, &q, 7, Metric::Cosine, 4)).unwrap();
    assert_eq!(run(1), run(3));
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    assert!(Metric::parse("l1").unwrap_err().to_string().contains("cosine"));
    assert!(knn(&[0.0; 7], &[0.0; 3], 3, Metric::Dot, 1).is_err());
    assert!(knn(&[], &[], 0, Metric::Dot, 1).is_err());
    let mut one = KnnAccumulator::new(&[0.0; 3], 3, Metric::Dot, 1).unwrap();
    assert!(one.merge(KnnAccumulator::new(&[1.0; 3], 3, Metric::Dot, 1).unwrap()).is_err());
}
