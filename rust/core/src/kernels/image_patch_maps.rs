//! What each token of an image adds along directions, through the attention of the class token.
//!
//! A head's output at the class token is `sum_i pattern[i] * v[i]`, so that token `i` adds
//! `pattern[i] * (v[i] . R d) / scale` along a direction `d`, with `R = W_O[head] @ projection`
//! (Gandelsman et al. 2024, section 3). Directions go through `R` once, so that a token costs `d_head`
//! multiplications a head and direction and nothing of the width of the stream is made.

use rayon::prelude::*;

use super::check::{elements, rows_of, same_axis, same_len};
use super::matmul::{MatMut, MatRef, product};
use crate::Result;

/// Lengths of the axes of [`image_patch_maps`].
#[derive(Debug, Clone, Copy)]
pub struct MapShape {
    /// Tokens of an image, the class token among them.
    pub n_token: usize,
    /// Heads.
    pub n_head: usize,
    /// Features of a head.
    pub d_head: usize,
    /// Directions.
    pub n_direction: usize,
}

/// `out[image, head, token, direction] = pattern[image, head, token] * (v[image, token, head] .
/// readout[head, :, direction]) / scale[image]`; with `summed` the heads are added up,
/// `[image, token, direction]`.
///
/// `pattern [image, head, token]` is the class token's row, `v [image, token, head, d_head]`, `readout
/// [head, d_head, direction]`, `scale [image]` (absent means 1).
///
/// # Errors
/// If the lengths do not match the axes.
pub fn image_patch_maps(
    pattern: &[f32],
    v: &[f32],
    readout: &[f32],
    scale: Option<&[f32]>,
    shape: MapShape,
    summed: bool,
    out: &mut [f32],
) -> Result<()> {
    let MapShape { n_token, n_head, d_head, n_direction } = shape;
    let of_pattern = elements(&[n_head, n_token])?;
    let of_v = elements(&[n_token, n_head, d_head])?;
    let n_image = rows_of("pattern", pattern.len(), of_pattern)?;
    same_len("v", v.len(), elements(&[n_image, of_v])?)?;
    same_len("readout", readout.len(), elements(&[n_head, d_head, n_direction])?)?;
    let heads_out = if summed { 1 } else { n_head };
    let of_out = elements(&[heads_out, n_token, n_direction])?;
    same_len("out", out.len(), elements(&[n_image, of_out])?)?;
    if let Some(scale) = scale {
        same_axis("image", ("pattern", n_image), ("scale", scale.len()))?;
    }
    if out.is_empty() || d_head == 0 {
        out.fill(0.0);
        return Ok(());
    }
    let images = pattern.par_chunks(of_pattern).zip(v.par_chunks(of_v)).enumerate();
    out.par_chunks_mut(of_out).zip(images).try_for_each(|(out, (image, (pattern, v)))| {
        out.fill(0.0);
        let factor = scale.map_or(1.0, |scale| 1.0 / scale[image]);
        one_image(pattern, v, readout, shape, factor, out, summed)
    })
}

/// One product a head, each token's row then weighted by how much the class token looks at it.
fn one_image(
    pattern: &[f32],
    v: &[f32],
    readout: &[f32],
    shape: MapShape,
    factor: f32,
    out: &mut [f32],
    summed: bool,
) -> Result<()> {
    let MapShape { n_token, n_head, d_head, n_direction } = shape;
    let mut values = vec![0.0; n_token * n_direction];
    for head in 0..n_head {
        let left = MatRef::with_stride(&v[head * d_head..], n_token, d_head, n_head * d_head)?;
        let right = &readout[head * d_head * n_direction..][..d_head * n_direction];
        let right = MatRef::new(right, d_head, n_direction)?;
        let mut to =
            MatMut { data: &mut values, rows: n_token, cols: n_direction, row_stride: n_direction };
        product(left, right, &mut to);
        let place = if summed { 0 } else { head * n_token * n_direction };
        let rows = out[place..].chunks_exact_mut(n_direction).zip(values.chunks_exact(n_direction));
        for ((out, values), &weight) in rows.zip(&pattern[head * n_token..][..n_token]) {
            let weight = weight * factor;
            out.iter_mut().zip(values).for_each(|(out, &value)| *out += weight * value);
        }
    }
    Ok(())
}
