//! `kernels::norm` against the definition.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]

mod kernels_common;

use kernels_common::{assert_close, cases, uniform};
use proptest::prelude::*;
use residuum_core::kernels::norm::{Norm, NormKind, layer_norm, rms_norm};

/// The result is computed in f64 and rounded three times (quotient, gain, shift) at a size of up
/// to a few units.
const TOLERANCE: f64 = 2e-6;

fn naive(norm: &Norm, x: &[f32], d: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rows = Vec::new();
    let mut scales = Vec::new();
    for row in x.chunks(d) {
        let row: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        let n = d as f64;
        let mean = if norm.kind == NormKind::LayerNorm { row.iter().sum::<f64>() / n } else { 0.0 };
        let square = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        let scale =
            if norm.kind == NormKind::None { 1.0 } else { (square + f64::from(norm.eps)).sqrt() };
        scales.push(scale);
        for (i, value) in row.iter().enumerate() {
            let gain = norm.weight.as_ref().map_or(1.0, |w| w[i] + norm.offset);
            let shift = norm.bias.as_ref().map_or(0.0, |b| b[i]);
            rows.push((value - mean) / scale * f64::from(gain) + f64::from(shift));
        }
    }
    (rows, scales)
}

proptest! {
    #![proptest_config(cases(128))]
    #[test]
    fn equals_the_definition(
        rows in 0_usize..150, d in 1_usize..41, kind in 0_usize..3, seed: u64, weighted: bool,
    ) {
        let kind = [NormKind::LayerNorm, NormKind::RmsNorm, NormKind::None][kind];
        let weighted = weighted && kind != NormKind::None;
        let norm = Norm {
            kind,
            eps: 1e-3,
            offset: if weighted { 1.0 } else { 0.0 },
            weight: weighted.then(|| uniform(seed ^ 1, d)),
            bias: weighted.then(|| uniform(seed ^ 2, d)),
        };
        let x = uniform(seed, rows * d);
        let (expected, scales) = naive(&norm, &x, d);
        let mut out = vec![f32::NAN; x.len()];
        norm.apply(&x, d, &mut out).unwrap();
        // A row of nearly equal values is divided by little more than sqrt(eps) = 0.03.
        assert_close(&out, &expected, TOLERANCE);
        assert_close(&norm.scale(&x, d).unwrap(), &scales, 1e-6);
    }
}

#[test]
fn an_offset_far_from_zero_costs_no_accuracy() {
    // f32 sums of squares around 1000 would leave no correct digit of a variance of 1/3.
    let x: Vec<f32> = uniform(1, 3 * 101).iter().map(|value| value + 1000.0).collect();
    let norm = Norm { kind: NormKind::LayerNorm, eps: 1e-5, ..Norm::none() };
    let (expected, _) = naive(&norm, &x, 101);
    let mut out = vec![0.0; x.len()];
    layer_norm(&x, 101, None, None, 1e-5, &mut out).unwrap();
    assert_close(&out, &expected, TOLERANCE);
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    let mut x = uniform(2, 4 * 5);
    x[5] = f32::NAN;
    x[10] = f32::INFINITY;
    let mut out = vec![0.0; x.len()];
    rms_norm(&x, 5, None, 1e-6, 0.0, &mut out).unwrap();
    assert!(out[..5].iter().chain(&out[15..]).all(|value| value.is_finite()));
    assert!(out[5..10].iter().all(|value| value.is_nan()));
    assert!(out[10].is_nan());
}

#[test]
fn a_constant_row_becomes_the_shift() {
    let mut out = vec![0.0; 3];
    layer_norm(&[2.5; 3], 3, Some(&[1.0, 2.0, 3.0]), Some(&[0.1, 0.2, 0.3]), 1e-5, &mut out)
        .unwrap();
    assert_eq!(out, [0.1, 0.2, 0.3]);
}

#[test]
fn widths_that_disagree_are_named() {
    let error = layer_norm(&[0.0; 6], 3, Some(&[1.0; 4]), None, 0.0, &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "axis `d_model` is 3 in x but 4 in norm weight");
    assert!(layer_norm(&[0.0; 7], 3, None, None, 0.0, &mut [0.0; 7]).is_err());
    assert!(layer_norm(&[0.0; 6], 3, None, None, 0.0, &mut [0.0; 3]).is_err());
    assert!(NormKind::parse("batch_norm").unwrap_err().to_string().contains("layer_norm"));
}
