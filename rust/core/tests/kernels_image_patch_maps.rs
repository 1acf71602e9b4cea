//! `kernels::image_patch_maps` against its definition, term by term: swapped axes would give heat
//! maps that look like some other patch's.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(clippy::float_cmp, reason = "these values are promised exactly")]

mod kernels_common;

use kernels_common::{assert_close, cases, uniform, with_threads};
use proptest::prelude::*;
use residuum_core::kernels::image_patch_maps::{MapShape, image_patch_maps};

/// Patterns, values and directions of `n_image` images.
struct Given {
    shape: MapShape,
    n_image: usize,
    pattern: Vec<f32>,
    v: Vec<f32>,
    readout: Vec<f32>,
    scale: Vec<f32>,
}

impl Given {
    fn new(seed: u64, n_image: usize, shape: MapShape) -> Self {
        let MapShape { n_token, n_head, d_head, n_direction } = shape;
        Self {
            shape,
            n_image,
            pattern: uniform(seed, n_image * n_head * n_token),
            v: uniform(seed ^ 1, n_image * n_token * n_head * d_head),
            readout: uniform(seed ^ 2, n_head * d_head * n_direction),
            scale: uniform(seed ^ 3, n_image).iter().map(|value| value + 1.5).collect(),
        }
    }

    fn run(&self, scale: Option<&[f32]>, summed: bool) -> Vec<f32> {
        let MapShape { n_token, n_head, n_direction, .. } = self.shape;
        let heads = if summed { 1 } else { n_head };
        let mut out = vec![f32::NAN; self.n_image * heads * n_token * n_direction];
        let Self { pattern, v, readout, shape, .. } = self;
        image_patch_maps(pattern, v, readout, scale, *shape, summed, &mut out).unwrap();
        out
    }

    /// `[image, head, token, direction]`, or summed over heads.
    fn naive(&self, scale: Option<&[f32]>, summed: bool) -> Vec<f64> {
        let MapShape { n_token, n_head, d_head, n_direction } = self.shape;
        let heads = if summed { 1 } else { n_head };
        let mut out = vec![0.0; self.n_image * heads * n_token * n_direction];
        for image in 0..self.n_image {
            for head in 0..n_head {
                for token in 0..n_token {
                    for direction in 0..n_direction {
                        let dot: f64 = (0..d_head)
                            .map(|i| {
                                let v = self.v
                                    [((image * n_token + token) * n_head + head) * d_head + i];
                                let r = self.readout[(head * d_head + i) * n_direction + direction];
                                f64::from(v) * f64::from(r)
                            })
                            .sum();
                        let weight =
                            f64::from(self.pattern[(image * n_head + head) * n_token + token]);
                        let of = image * heads + if summed { 0 } else { head };
                        let divisor = scale.map_or(1.0, |scale| f64::from(scale[image]));
                        out[(of * n_token + token) * n_direction + direction] +=
                            weight * dot / divisor;
                    }
                }
            }
        }
        out
    }
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn equals_the_definition(
        n_image in 0_usize..5, n_token in 0_usize..12, n_head in 0_usize..6, d_head in 0_usize..9,
        n_direction in 0_usize..5, seed: u64, scaled: bool, summed: bool,
    ) {
        let shape = MapShape { n_token, n_head, d_head, n_direction };
        // Without heads nothing says how many images there are.
        let n_image = if n_head * n_token == 0 { 0 } else { n_image };
        let given = Given::new(seed, n_image, shape);
        let scale = scaled.then_some(given.scale.as_slice());
        // A sum over heads of sums of d_head products below 1, each weighted by at most 2.
        let terms = (n_head * (d_head + 4) * (d_head + 4)) as f64;
        let tolerance = f64::from(f32::EPSILON) * terms;
        assert_close(&given.run(scale, summed), &given.naive(scale, summed), tolerance);
    }
}

const ODD: MapShape = MapShape { n_token: 10, n_head: 5, d_head: 7, n_direction: 3 };

#[test]
fn threads_change_nothing() {
    let given = Given::new(7, 9, ODD);
    for summed in [false, true] {
        let run = |threads| with_threads(threads, || given.run(Some(&given.scale), summed));
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn a_nan_stays_with_its_token_and_head() {
    let mut given = Given::new(8, 2, ODD);
    let clean = given.run(None, false);
    // Image 1, token 4, head 2.
    given.v[((10 + 4) * 5 + 2) * 7 + 6] = f32::NAN;
    let found = given.run(None, false);
    for (at, (found, clean)) in found.iter().zip(&clean).enumerate() {
        let touched = at / 3 == ((5 + 2) * 10 + 4);
        assert!(if touched { found.is_nan() } else { found == clean }, "at {at}");
    }
}

#[test]
fn shapes_that_disagree_are_errors() {
    let given = Given::new(9, 2, ODD);
    let Given { pattern, v, readout, .. } = &given;
    let run = |pattern: &[f32], v: &[f32], readout: &[f32], scale: Option<&[f32]>, n_out: usize| {
        let mut out = vec![0.0; n_out];
        image_patch_maps(pattern, v, readout, scale, ODD, true, &mut out).map(|()| out)
    };
    let n_out = 2 * 10 * 3;
    assert!(run(pattern, v, readout, None, n_out).is_ok());
    assert!(run(&pattern[1..], v, readout, None, n_out).is_err());
    assert!(run(pattern, &v[..v.len() / 2], readout, None, n_out).is_err());
    assert!(run(pattern, v, &readout[..7], None, n_out).is_err());
    assert!(run(pattern, v, readout, None, n_out * 5).is_err(), "not summed");
    let error = run(pattern, v, readout, Some(&[1.0; 3]), n_out).unwrap_err();
    assert_eq!(error.to_string(), "axis `image` is 2 in pattern but 3 in scale");
}
