//! `kernels::attribution` against `head_out` formed in full.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]

mod kernels_common;

use kernels_common::{assert_close, cases, naive_matmul, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::attribution::{attribution, fold, readout};
use residuum_core::kernels::norm::{Norm, NormKind};

/// `head_out[row, head] . direction`, with `head_out` made.
fn naive(z: &[f32], w_o: &[f32], d: &[f32], shape: [usize; 5]) -> Vec<f64> {
    let [rows, heads, d_head, d_model, m] = shape;
    let mut out = Vec::new();
    for row in 0..rows {
        for head in 0..heads {
            let z = &z[(row * heads + head) * d_head..][..d_head];
            let w = &w_o[head * d_head * d_model..][..d_head * d_model];
            let head_out = naive_matmul(z, w, 1, d_head, d_model);
            for direction in 0..m {
                let dot = head_out.iter().enumerate();
                out.push(dot.map(|(i, value)| value * f64::from(d[i * m + direction])).sum());
            }
        }
    }
    out
}

/// Two chained sums, of `d_model` terms of size at most 1 and of `d_head` terms of size at most
/// `d_model`.
fn tolerance(d_head: usize, d_model: usize) -> f64 {
    f64::from(f32::EPSILON) * (d_head * d_model * (d_head + d_model)) as f64
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn equals_head_out_times_direction(
        rows in 0_usize..20, heads in 1_usize..6, d_head in 1_usize..8, d_model in 1_usize..24,
        m in 0_usize..5, seed: u64,
    ) {
        let z = uniform(seed, rows * heads * d_head);
        let w_o = uniform(seed ^ 1, heads * d_head * d_model);
        let d = uniform(seed ^ 2, d_model * m);
        let read = readout(&w_o, &d, heads, d_head, d_model).unwrap();
        let mut out = vec![f32::NAN; rows * heads * m];
        attribution(&z, &read, None, heads, d_head, &mut out).unwrap();
        let expected = naive(&z, &w_o, &d, [rows, heads, d_head, d_model, m]);
        assert_close(&out, &expected, tolerance(d_head, d_model));
    }
}

#[test]
fn folded_directions_give_the_normed_stream() {
    let (rows, d, m) = (9, 13, 3);
    for kind in [NormKind::LayerNorm, NormKind::RmsNorm, NormKind::None] {
        let norm = Norm {
            kind,
            eps: 1e-5,
            offset: 0.5,
            weight: Some(uniform(1, d)),
            bias: Some(uniform(2, d)),
        };
        let (x, directions) = (uniform(3, rows * d), uniform(4, d * m));
        let mut normed = vec![0.0; x.len()];
        norm.apply(&x, d, &mut normed).unwrap();
        let expected = naive_matmul(&normed, &directions, rows, d, m);
        let folded = fold(&norm, &directions, d).unwrap();
        let scale = norm.scale(&x, d).unwrap();
        let linear = naive_matmul(&x, &folded.directions, rows, d, m);
        let found: Vec<f32> = linear
            .iter()
            .enumerate()
            .map(|(i, value)| (value / f64::from(scale[i / m])) as f32 + folded.constant[i % m])
            .collect();
        // Sums of 13 terms of size up to about 3, everything rounded to f32 a few times.
        assert_close(&found, &expected, 2e-5);
    }
}

#[test]
fn rows_are_divided_by_their_scale_across_blocks() {
    let (rows, heads, d_head) = (1100, 5, 7);
    let (z, read) = (uniform(5, rows * heads * d_head), uniform(6, heads * d_head * 2));
    let scale: Vec<f32> = (0..rows).map(|row| 1.0 + row as f32).collect();
    let run = |threads, scale: Option<&[f32]>| {
        let mut out = vec![0.0; rows * heads * 2];
        with_threads(threads, || attribution(&z, &read, scale, heads, d_head, &mut out)).unwrap();
        out
    };
    let (plain, scaled) = (run(1, None), run(3, Some(&scale)));
    let expected = plain.iter().enumerate().map(|(i, value)| value / scale[i / (heads * 2)]);
    assert_eq!(scaled, expected.collect::<Vec<f32>>());
}

#[test]
fn a_nan_in_one_head_touches_no_other() {
    let mut z = uniform(7, 2 * 3 * 5);
    z[5] = f32::NAN;
    let mut out = vec![0.0; 2 * 3];
    attribution(&z, &uniform(8, 3 * 5), None, 3, 5, &mut out).unwrap();
    assert_eq!(
        out.iter().map(|v| v.is_nan()).collect::<Vec<_>>(),
        [false, true, false, false, false, false]
    );
}

#[test]
fn shapes_that_disagree_are_errors() {
    assert!(attribution(&[0.0; 7], &[0.0; 6], None, 2, 3, &mut []).is_err());
    let error = attribution(&[0.0; 6], &[0.0; 6], Some(&[1.0; 2]), 2, 3, &mut [0.0; 2]);
    assert_eq!(error.unwrap_err().to_string(), "axis `row` is 1 in z but 2 in scale");
    assert!(readout(&[0.0; 6], &[0.0; 4], 1, 3, 4).is_err());
    let norm = Norm { kind: NormKind::RmsNorm, weight: Some(vec![1.0; 3]), ..Norm::none() };
    assert!(fold(&norm, &[0.0; 4], 4).is_err());
}
