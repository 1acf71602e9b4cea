//! `kernels::kmeans` against the definition of what it returns, and on data with known clusters.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

mod kernels_common;

use kernels_common::{assert_close, cases, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::kmeans::{
    Kmeans, KmeansOptions, NO_CLUSTER, assign, kmeans, kmeans_from,
};

const OPTIONS: KmeansOptions = KmeansOptions { k: 4, seed: 7, n_init: 2, max_iter: 50, tol: 0.0 };

fn square(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}

/// Rows around `k` corners of a cube that are 10 apart, with their corner.
fn blobs(seed: u64, rows: usize, d: usize, k: usize) -> (Vec<f32>, Vec<usize>) {
    let corner: Vec<usize> = (0..rows).map(|row| row * 7 % k).collect();
    let mut x = uniform(seed, rows * d);
    for (row, &corner) in corner.iter().enumerate() {
        for (i, value) in x[row * d..(row + 1) * d].iter_mut().enumerate() {
            *value += if corner >> i & 1 == 1 { 10.0 } else { 0.0 };
        }
    }
    (x, corner)
}

/// What holds for any result: labels are nearest centres, distances and inertia belong to them.
fn check(result: &Kmeans, x: &[f32], d: usize) {
    let mut inertia = 0.0;
    for (row, x) in x.chunks(d).enumerate() {
        let squares: Vec<f64> = result.centres.chunks(d).map(|centre| square(x, centre)).collect();
        let own = squares[result.labels[row] as usize];
        let least = squares.iter().copied().fold(f64::INFINITY, f64::min);
        // The f32 product may pick either of two centres that are equally far to its rounding.
        assert!(own <= least + 1e-5 * (1.0 + least), "row {row}: {own} but {least}");
        assert_close(&result.distance[row..=row], &[own.sqrt()], 1e-6 * (1.0 + own.sqrt()));
        inertia += own;
    }
    assert!((result.inertia - inertia).abs() <= 1e-9 * inertia);
}

proptest! {
    #![proptest_config(cases(48))]
    #[test]
    fn labels_are_nearest_and_centres_are_means(
        rows in 1_usize..400, d in 1_usize..9, k in 1_usize..40, seed: u64,
    ) {
        let x = uniform(seed, rows * d);
        let options = KmeansOptions { k, seed, max_iter: 300, ..OPTIONS };
        let result = kmeans(&x, d, options);
        if k > rows {
            let error = result.unwrap_err().to_string();
            prop_assert!(error.contains(&format!("k is {k}")), "{}", error);
            return Ok(());
        }
        let result = result.unwrap();
        check(&result, &x, d);
        if result.n_iter == 300 {
            return Ok(());
        }
        for (cluster, centre) in result.centres.chunks(d).enumerate() {
            let own = x.chunks(d).zip(&result.labels).filter(|(_, l)| **l as usize == cluster);
            let own: Vec<&[f32]> = own.map(|(row, _)| row).collect();
            for (i, &value) in centre.iter().enumerate().filter(|_| !own.is_empty()) {
                let mean = own.iter().map(|r| f64::from(r[i])).sum::<f64>() / own.len() as f64;
                prop_assert!((f64::from(value) - mean).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn finds_separate_clusters() {
    // The second set is large enough for the starts to be drawn from a sample.
    for (rows, k) in [(900, 8), (3000, 4)] {
        let (x, corner) = blobs(1, rows, 5, k);
        let result = kmeans(&x, 5, KmeansOptions { k, ..OPTIONS }).unwrap();
        check(&result, &x, 5);
        let mut name = vec![NO_CLUSTER; k];
        for (&label, &corner) in result.labels.iter().zip(&corner) {
            assert!(name[corner] == NO_CLUSTER || name[corner] == label);
            name[corner] = label;
        }
        name.sort_unstable();
        assert!(name.into_iter().eq(0..k as u32));
    }
}

/// Lloyd's algorithm as it is defined, in f64 and with every distance: labels after `moves` moves.
fn lloyd(x: &[f32], d: usize, start: &[f32], moves: usize) -> Vec<usize> {
    let nearest = |row: &[f32], centres: &[f64]| {
        let squares = centres.chunks(d).map(|centre| -> f64 {
            row.iter().zip(centre).map(|(&x, c)| (f64::from(x) - c).powi(2)).sum()
        });
        let squares: Vec<f64> = squares.collect();
        (0..squares.len()).min_by(|&a, &b| squares[a].total_cmp(&squares[b])).unwrap()
    };
    let mut centres: Vec<f64> = start.iter().copied().map(f64::from).collect();
    let mut labels = Vec::new();
    for move_ in 0..=moves {
        labels = x.chunks(d).map(|row| nearest(row, &centres)).collect();
        if move_ == moves {
            break;
        }
        for (cluster, centre) in centres.chunks_mut(d).enumerate() {
            let own = x.chunks(d).zip(&labels).filter(|(_, label)| **label == cluster);
            let own: Vec<&[f32]> = own.map(|(row, _)| row).collect();
            for (i, value) in centre.iter_mut().enumerate().filter(|_| !own.is_empty()) {
                *value = own.iter().map(|row| f64::from(row[i])).sum::<f64>() / own.len() as f64;
            }
        }
    }
    labels
}

#[test]
fn rows_that_are_passed_over_stay_where_they_belong() {
    // Noise, where bounds hardly hold, and clusters that touch, where they hold for most rows.
    let noise = uniform(11, 2000 * 12);
    let clusters: Vec<f32> =
        blobs(12, 2000, 12, 16).0.iter().zip(&noise).map(|(x, e)| x / 4.0 + e).collect();
    for x in [noise, clusters] {
        let start = x[..24 * 12].to_vec();
        for moves in [1, 2, 3, 5, 9, 17] {
            let options = KmeansOptions { k: 24, max_iter: moves, ..OPTIONS };
            let result = kmeans_from(&x, 12, &start, options).unwrap();
            let labels: Vec<usize> = result.labels.iter().map(|&label| label as usize).collect();
            assert_eq!(labels, lloyd(&x, 12, &start, moves), "after {moves} moves");
            check(&result, &x, 12);
        }
    }
}

#[test]
fn an_offset_far_from_zero_changes_nothing() {
    // Uncentred, squares of 1e4 leave f32 an error of about 60 for distances below 10.
    let (x, _) = blobs(2, 300, 5, 4);
    let shifted: Vec<f32> = x.iter().map(|value| value + 10_000.0).collect();
    let (near, far) = (kmeans(&x, 5, OPTIONS).unwrap(), kmeans(&shifted, 5, OPTIONS).unwrap());
    check(&far, &shifted, 5);
    assert!((far.inertia / near.inertia - 1.0).abs() < 1e-2);
}

#[test]
fn the_seed_decides_and_threads_do_not() {
    let x = uniform(3, 3001 * 6);
    let run = |threads, seed| {
        let options = KmeansOptions { k: 9, seed, max_iter: 20, ..OPTIONS };
        with_threads(threads, || kmeans(&x, 6, options)).unwrap()
    };
    assert_eq!(run(1, 5), run(3, 5));
    assert_ne!(run(1, 5).centres, run(1, 6).centres);
}

#[test]
fn more_restarts_are_never_worse() {
    let x = uniform(4, 500 * 3);
    let run = |n_init| kmeans(&x, 3, KmeansOptions { k: 12, n_init, ..OPTIONS }).unwrap().inertia;
    assert!(run(6) <= run(1));
}

#[test]
fn rows_with_nan_belong_nowhere() {
    let (mut x, _) = blobs(5, 60, 3, 4);
    let clean = kmeans(&[&x[..30], &x[33..]].concat(), 3, OPTIONS).unwrap();
    x[31] = f32::NAN;
    let result = kmeans(&x, 3, OPTIONS).unwrap();
    assert_eq!(result.labels[10], NO_CLUSTER);
    assert!(result.distance[10].is_nan());
    assert!((result.inertia - clean.inertia).abs() < 1e-6 * clean.inertia);
    assert!(result.centres.iter().all(|value| value.is_finite()));
}

#[test]
fn fewer_different_rows_than_centres() {
    // Two points, five times each: some centres stay empty, and nothing divides by zero.
    let x = [1.0, 2.0, 5.0, 6.0].repeat(5);
    let result = kmeans(&x, 2, OPTIONS).unwrap();
    assert_eq!(result.inertia, 0.0);
    check(&result, &x, 2);
    // Of equal centres the lowest is taken.
    let (labels, ..) = assign(&[1.0, 2.0], 2, &[9.0, 9.0, 1.0, 2.0, 1.0, 2.0]).unwrap();
    assert_eq!(labels, [1]);
}

#[test]
fn assigning_repeats_the_result() {
    let x = uniform(6, 700 * 5);
    let result = kmeans(&x, 5, OPTIONS).unwrap();
    let (labels, distance, inertia) = assign(&x, 5, &result.centres).unwrap();
    assert_eq!((labels, distance, inertia), (result.labels, result.distance, result.inertia));
    // More centres than lanes of the search, in no multiple of them.
    let (labels, ..) = assign(&x, 5, &x[..37 * 5]).unwrap();
    assert_eq!(labels[..37], (0..37).collect::<Vec<u32>>());
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    for options in [
        KmeansOptions { k: 0, ..OPTIONS },
        KmeansOptions { n_init: 0, ..OPTIONS },
        KmeansOptions { max_iter: 0, ..OPTIONS },
    ] {
        assert!(kmeans(&[0.0; 30], 3, options).unwrap_err().to_string().contains("at least 1"));
    }
    assert!(kmeans(&[0.0; 31], 3, OPTIONS).is_err());
    assert!(kmeans(&[], 3, OPTIONS).is_err());
    assert!(assign(&[0.0; 3], 3, &[]).is_err());
}
