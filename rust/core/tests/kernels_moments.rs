//! `kernels::moments` and `kernels::pca` against the definitions.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

mod kernels_common;

use kernels_common::{cases, uniform};
use proptest::prelude::*;
use residuum_core::kernels::moments::Moments;
use residuum_core::kernels::pca::pca;

fn naive_mean(x: &[f32], d: usize) -> Vec<f64> {
    let n = (x.len() / d) as f64;
    (0..d).map(|i| x.chunks(d).map(|row| f64::from(row[i])).sum::<f64>() / n).collect()
}

fn naive_covariance(x: &[f32], d: usize, ddof: usize) -> Vec<f64> {
    let (n, mean) = (x.len() / d, naive_mean(x, d));
    let mut out = vec![0.0; d * d];
    for row in x.chunks(d) {
        for i in 0..d {
            for j in 0..d {
                out[i * d + j] += (f64::from(row[i]) - mean[i]) * (f64::from(row[j]) - mean[j]);
            }
        }
    }
    out.iter().map(|value| value / (n as f64 - ddof as f64)).collect()
}

/// Deviations are below 2 in size; a block's f32 sums of up to 2048 products of them are off by
/// at most 2048 * 4 * eps relative to the count.
const TOLERANCE: f64 = 1e-5;

#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "at {at}: {found} instead of {expected}");
    }
}

proptest! {
    #![proptest_config(cases(32))]
    #[test]
    fn equal_the_definitions_for_any_cut(
        rows in 2_usize..300, d in 1_usize..12, cut in 1_usize..300, offset in 0_i32..2, seed: u64,
    ) {
        // Far from zero, unshifted f32 products would keep no digit of the covariance.
        let offset = offset as f32 * 3000.0;
        let x: Vec<f32> = uniform(seed, rows * d).iter().map(|value| value + offset).collect();
        let mut moments = Moments::new(d, true);
        for (block, rows) in x.chunks(cut * d).enumerate() {
            if block % 2 == 0 {
                moments.push(rows).unwrap();
            } else {
                let mut other = Moments::new(d, true);
                other.push(rows).unwrap();
                moments.merge(&other).unwrap();
            }
        }
        prop_assert_eq!(moments.count(), rows as u64);
        assert_near(&moments.mean(), &naive_mean(&x, d), 1e-9 * (1.0 + f64::from(offset)));
        let expected = naive_covariance(&x, d, 1);
        let found = moments.covariance(1).unwrap();
        assert_near(&found, &expected, TOLERANCE);
        let diagonal: Vec<f64> = (0..d).map(|i| expected[i * d + i]).collect();
        assert_near(&moments.variance(1), &diagonal, TOLERANCE);
    }
}

#[test]
fn covariance_wider_than_one_square_is_symmetric() {
    let (rows, d) = (2100, 401);
    let x = uniform(1, rows * d);
    let mut moments = Moments::new(d, true);
    moments.push(&x).unwrap();
    let found = moments.covariance(0).unwrap();
    assert_near(&found, &naive_covariance(&x, d, 0), TOLERANCE);
    for i in 0..d {
        for j in 0..i {
            assert_eq!(found[i * d + j].to_bits(), found[j * d + i].to_bits());
        }
    }
}

#[test]
fn rows_with_nan_are_left_out_and_counted() {
    let mut x = uniform(2, 5 * 3);
    x[4] = f32::NAN;
    x[6] = f32::INFINITY;
    let mut moments = Moments::new(3, true);
    moments.push(&x).unwrap();
    assert_eq!((moments.count(), moments.skipped()), (3, 2));
    let kept = [&x[..3], &x[9..]].concat();
    assert_near(&moments.mean(), &naive_mean(&kept, 3), 1e-9);
    assert_near(&moments.covariance(1).unwrap(), &naive_covariance(&kept, 3, 1), TOLERANCE);
}

#[test]
fn without_enough_rows_there_is_no_variance() {
    let mut moments = Moments::new(2, true);
    assert!(moments.mean().iter().chain(&moments.variance(0)).all(|value| value.is_nan()));
    moments.push(&[]).unwrap();
    moments.push(&[1.0, 2.0]).unwrap();
    assert_eq!(moments.mean(), [1.0, 2.0]);
    assert_eq!(moments.variance(0), [0.0, 0.0]);
    assert!(moments.variance(1).iter().all(|value| value.is_nan()));
    assert!(moments.covariance(1).unwrap().iter().all(|value| value.is_nan()));
}

#[test]
fn arguments_that_do_not_fit_are_named() {
    let mut moments = Moments::new(3, false);
    assert!(moments.push(&[0.0; 4]).is_err());
    assert!(moments.covariance(0).unwrap_err().to_string().contains("without covariance"));
    assert!(moments.merge(&Moments::new(3, true)).is_err());
    assert!(moments.merge(&Moments::new(4, false)).is_err());
}

#[test]
fn components_diagonalise_the_covariance() {
    let (rows, d) = (200, 7);
    let mut x = uniform(3, rows * d);
    x.iter_mut().enumerate().for_each(|(at, value)| *value *= (1 + at % d) as f32);
    let covariance = naive_covariance(&x, d, 1);
    let found = pca(&covariance, d, d).unwrap();
    assert!(found.variances.windows(2).all(|pair| pair[0] >= pair[1]));
    let trace: f64 = (0..d).map(|i| covariance[i * d + i]).sum();
    assert!((found.total - trace).abs() < 1e-9);
    for (component, vector) in found.components.chunks(d).enumerate() {
        let image: Vec<f64> = covariance
            .chunks(d)
            .map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum())
            .collect();
        let expected: Vec<f64> = vector.iter().map(|v| v * found.variances[component]).collect();
        assert_near(&image, &expected, 1e-10);
        assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12);
        let largest = vector.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        assert!(largest > 0.0);
    }
    let first = pca(&covariance, d, 2).unwrap();
    assert_eq!(first.components, found.components[..2 * d]);
    assert_eq!(pca(&covariance, d, 99).unwrap(), found);
}

#[test]
fn pca_of_nothing_and_of_nan() {
    let empty = pca(&[], 0, 3).unwrap();
    assert!(empty.variances.is_empty() && empty.components.is_empty());
    assert!(pca(&[1.0, 0.0, f64::NAN, 1.0], 2, 1).unwrap_err().to_string().contains("[1, 0]"));
    assert!(pca(&[1.0; 3], 2, 1).is_err());
}
