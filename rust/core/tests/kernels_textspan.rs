//! `kernels::textspan` against the published algorithm, which multiplies all images by all texts at
//! every step: a shortcut that is off would name heads by other texts, and nothing would look wrong.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]

mod kernels_common;

use kernels_common::{cases, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::textspan::{TextBasis, textspan};

type Rows = Vec<Vec<f64>>;

fn rows(values: &[f32], d: usize) -> Rows {
    values.chunks(d).map(|row| row.iter().copied().map(f64::from).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Rows less their mean.
fn centred(mut rows: Rows, d: usize) -> Rows {
    let n = rows.len() as f64;
    for i in 0..d {
        let mean = rows.iter().map(|row| row[i]).sum::<f64>() / n;
        for row in &mut rows {
            row[i] -= mean;
        }
    }
    rows
}

/// Mean of products of centred rows, `[d, d]`.
fn covariance(images: &Rows, d: usize) -> Vec<f64> {
    let entry = |i: usize, j: usize| {
        images.iter().map(|row| row[i] * row[j]).sum::<f64>() / images.len() as f64
    };
    (0..d * d).map(|at| entry(at / d, at % d)).collect()
}

/// Mean square of what images have along `t`.
fn variance(images: &Rows, t: &[f64]) -> f64 {
    images.iter().map(|row| dot(row, t).powi(2)).sum::<f64>() / images.len() as f64
}

fn take(rows: &mut Rows, unit: &[f64]) {
    for row in rows {
        let along = dot(row, unit);
        row.iter_mut().zip(unit).for_each(|(value, &u)| *value -= along * u);
    }
}

/// The algorithm as published; a text of which a millionth is left has nothing left.
fn literal(mut images: Rows, mut texts: Rows, n_pick: usize) -> TextBasis {
    let first: Vec<f64> = texts.iter().map(|t| dot(t, t)).collect();
    let total = images.iter().map(|row| dot(row, row)).sum::<f64>() / images.len() as f64;
    let mut basis = TextBasis { total, ..TextBasis::default() };
    while basis.texts.len() < n_pick {
        let mut best: Option<(usize, f64)> = None;
        for (text, t) in texts.iter().enumerate() {
            let score = variance(&images, t);
            if dot(t, t) > 1e-12 * first[text] && best.is_none_or(|(_, highest)| score > highest) {
                best = Some((text, score));
            }
        }
        let Some((text, _)) = best else { break };
        let length = dot(&texts[text], &texts[text]).sqrt();
        let unit: Vec<f64> = texts[text].iter().map(|value| value / length).collect();
        let explained = variance(&images, &unit);
        if explained <= 1e-12 * total {
            break;
        }
        take(&mut images, &unit);
        take(&mut texts, &unit);
        basis.texts.push(text);
        basis.explained.push(explained);
        basis.directions.extend(unit);
    }
    basis
}

#[track_caller]
fn assert_orthonormal(directions: &[f64], d: usize) {
    for (i, a) in directions.chunks(d).enumerate() {
        for (j, b) in directions.chunks(d).enumerate() {
            assert!((dot(a, b) - f64::from(u8::from(i == j))).abs() < 1e-8, "{i} and {j}");
        }
    }
}

proptest! {
    #![proptest_config(cases(96))]
    #[test]
    fn equals_the_published_algorithm(
        n_image in 1_usize..40, n_text in 0_usize..30, d in 1_usize..10, n_pick in 0_usize..12,
        seed: u64,
    ) {
        let images = centred(rows(&uniform(seed, n_image * d), d), d);
        let pool = uniform(seed ^ 1, n_text * d);
        let found = textspan(&pool, &covariance(&images, d), d, n_pick).unwrap();
        let expected = literal(images, rows(&pool, d), n_pick);
        prop_assert_eq!(&found.texts, &expected.texts);
        let close = |a: &[f64], b: &[f64], tolerance: f64| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
        };
        // In 64-bit; what is left of a text may be a thousandth of it, and is scaled up to a unit.
        prop_assert!(close(&[found.total], &[expected.total], 1e-12));
        prop_assert!(close(&found.explained, &expected.explained, 1e-9));
        prop_assert!(close(&found.directions, &expected.directions, 1e-7));
        assert_orthonormal(&found.directions, d);
    }
}

/// A covariance that is full, `[d, d]`.
fn full(d: usize) -> Vec<f64> {
    covariance(&centred(rows(&uniform(3, 50 * d), d), d), d)
}

#[test]
fn a_text_is_picked_once_and_rounding_never() {
    let d = 9;
    let pool = uniform(4, 3 * d);
    let found = textspan(&pool, &full(d), d, 7).unwrap();
    let mut texts = found.texts.clone();
    texts.sort_unstable();
    assert_eq!(texts, [0, 1, 2], "three texts span no more than three directions");
    assert_orthonormal(&found.directions, d);
    // All that texts can explain of a full covariance, and not more.
    assert!(found.explained.iter().sum::<f64>() < found.total);
}

#[test]
fn of_equal_texts_the_first_is_picked() {
    let d = 5;
    let one = uniform(5, 4 * d);
    let twice = [one.as_slice(), &one].concat();
    let (single, double) = (textspan(&one, &full(d), d, 9), textspan(&twice, &full(d), d, 9));
    assert_eq!(double.unwrap(), single.unwrap());
}

#[test]
fn nothing_is_picked_where_nothing_varies() {
    let d = 4;
    for covariance in [vec![0.0; d * d], vec![f64::NAN; d * d]] {
        assert_eq!(textspan(&uniform(6, 3 * d), &covariance, d, 2).unwrap().texts, [0; 0]);
    }
    // One direction varies: one text explains all of it.
    let mut one = vec![0.0; d * d];
    one[0] = 2.0;
    let found = textspan(&[0.0, 1.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0], &one, d, 2).unwrap();
    assert_eq!((found.texts, found.explained, found.total), (vec![1], vec![2.0], 2.0));
}

#[test]
fn a_text_of_nan_is_left_out() {
    let d = 5;
    let mut pool = uniform(7, 6 * d);
    let covariance = full(d);
    let without = textspan(&pool[d..], &covariance, d, 4).unwrap();
    pool[2] = f32::NAN;
    let found = textspan(&pool, &covariance, d, 4).unwrap();
    assert_eq!(found.texts, without.texts.iter().map(|text| text + 1).collect::<Vec<_>>());
    assert_eq!(found.directions, without.directions);
}

#[test]
fn threads_change_nothing() {
    // More texts than one task takes, in rows that fill no whole lanes.
    let d = 11;
    let (pool, covariance) = (uniform(8, 1300 * d), full(d));
    let run = |threads| with_threads(threads, || textspan(&pool, &covariance, d, d)).unwrap();
    let one = run(1);
    assert_eq!(one.texts.len(), d);
    assert_eq!(run(3), one);
}

#[test]
fn empty_pools_and_wrong_shapes() {
    assert_eq!(textspan(&[], &[0.0; 4], 2, 3).unwrap(), TextBasis::default());
    assert_eq!(textspan(&[], &[], 0, 3).unwrap().texts, [0; 0]);
    assert!(textspan(&[1.0; 5], &[0.0; 4], 2, 1).is_err(), "half a text");
    let error = textspan(&[1.0; 4], &[0.0; 3], 2, 1).unwrap_err().to_string();
    assert!(error.contains("covariance") && error.contains('4'), "{error}");
}
