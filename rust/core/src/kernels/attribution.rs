//! What each head adds along given directions, from `z`, without ever forming `head_out`.
//!
//! `head_out = z @ W_O[head]` is `d_model / d_head` times larger than `z`. Since
//! `head_out . d == z . (W_O[head] d)`, the directions are taken through `W_O` once ([`readout`])
//! and every row costs `d_head` multiplications a head and direction ([`attribution`]).

use rayon::prelude::*;

use super::check::{elements, rows_of, same_axis, same_len};
use super::matmul::{MatMut, MatRef, matmul, product};
use super::norm::{Norm, NormKind, narrow};
use crate::Result;

/// Rows that one task computes.
const ROW_BLOCK: usize = 512;

/// Directions seen through a frozen normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// `[d_model, direction]`: for any component `c` of the residual stream,
    /// `c @ directions / norm_scale[row]` is its share of `norm(x) @ original directions`.
    pub directions: Vec<f32>,
    /// `[direction]`: the share of the norm's shift, the same for every row.
    pub constant: Vec<f32>,
}

/// Folds a norm's gain and centring into directions `[d_model, direction]`.
///
/// Exact, given each row's divisor: `norm(x) @ D == x @ folded / scale(x) + constant`. The gain
/// scales the rows of D; taking the mean out of `x` is taking it out of D's columns instead.
///
/// # Errors
/// If the length of `directions` is not `d_model * n_direction`, or the norm has another width.
pub fn fold(norm: &Norm, directions: &[f32], d_model: usize) -> Result<Folded> {
    let n_direction = rows_of("directions", directions.len(), d_model)?;
    norm.scale(&[], d_model)?;
    let mut folded = vec![0.0_f64; directions.len()];
    let mut mean = vec![0.0_f64; n_direction];
    let mut constant = vec![0.0_f64; n_direction];
    let width = n_direction.max(1);
    let rows = folded.chunks_exact_mut(width).zip(directions.chunks_exact(width));
    for (feature, (out, row)) in rows.enumerate() {
        let (gain, shift) = (f64::from(norm.gain(feature)), f64::from(norm.shift(feature)));
        for (column, (out, &value)) in out.iter_mut().zip(row).enumerate() {
            *out = gain * f64::from(value);
            mean[column] += *out / d_model as f64;
            constant[column] += shift * f64::from(value);
        }
    }
    if norm.kind == NormKind::LayerNorm {
        for row in folded.chunks_exact_mut(width) {
            row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
        }
    }
    let narrowed = |values: Vec<f64>| values.into_iter().map(narrow).collect();
    Ok(Folded { directions: narrowed(folded), constant: narrowed(constant) })
}

/// Takes directions `[d_model, direction]` through `w_o [head, d_head, d_model]`:
/// `[head, d_head, direction]`, the argument of [`attribution`].
///
/// # Errors
/// If the lengths do not match the axes.
pub fn readout(
    w_o: &[f32],
    directions: &[f32],
    n_head: usize,
    d_head: usize,
    d_model: usize,
) -> Result<Vec<f32>> {
    let n_direction = rows_of("directions", directions.len(), d_model)?;
    let rows = elements(&[n_head, d_head])?;
    let mut out = vec![0.0; elements(&[rows, n_direction])?];
    let w_o = MatRef::new(w_o, rows, d_model)?;
    matmul(w_o, MatRef::new(directions, d_model, n_direction)?, &mut out)?;
    Ok(out)
}

/// Contributions of heads to directions: `out[row, head, direction] =
/// z[row, head] . readout[head, :, direction] / scale[row]`.
///
/// `z [row, head, d_head]`, `readout [head, d_head, direction]`, `scale [row]` (the frozen norm's
/// divisor; absent means 1), `out [row, head, direction]`.
///
/// # Errors
/// If the lengths do not match the axes.
pub fn attribution(
    z: &[f32],
    readout: &[f32],
    scale: Option<&[f32]>,
    n_head: usize,
    d_head: usize,
    out: &mut [f32],
) -> Result<()> {
    let n_row = rows_of("z", z.len(), elements(&[n_head, d_head])?)?;
    let n_direction = rows_of("readout", readout.len(), elements(&[n_head, d_head])?)?;
    same_len("out", out.len(), elements(&[n_row, n_head, n_direction])?)?;
    if let Some(scale) = scale {
        same_axis("row", ("z", n_row), ("scale", scale.len()))?;
    }
    if out.is_empty() {
        return Ok(());
    }
    let heads = Heads { readout, n_head, d_head, n_direction };
    let z_blocks = z.par_chunks(ROW_BLOCK * n_head * d_head);
    let out_blocks = out.par_chunks_mut(ROW_BLOCK * n_head * n_direction);
    z_blocks.zip(out_blocks).enumerate().try_for_each(|(block, (z, out))| {
        heads.block(z, out)?;
        if let Some(scale) = scale {
            let rows = out.chunks_exact_mut(n_head * n_direction);
            for (row, &scale) in rows.zip(&scale[block * ROW_BLOCK..]) {
                for value in row {
                    *value /= scale;
                }
            }
        }
        Ok(())
    })
}

struct Heads<'a> {
    readout: &'a [f32],
    n_head: usize,
    d_head: usize,
    n_direction: usize,
}

impl Heads<'_> {
    /// One product a head, on strided views of `z` and `out`.
    fn block(&self, z: &[f32], out: &mut [f32]) -> Result<()> {
        let (z_stride, out_stride) = (self.n_head * self.d_head, self.n_head * self.n_direction);
        let rows = z.len() / z_stride;
        for head in 0..self.n_head {
            let z = MatRef::with_stride(&z[head * self.d_head..], rows, self.d_head, z_stride)?;
            let readout = &self.readout[head * self.d_head * self.n_direction..]
                [..self.d_head * self.n_direction];
            let readout = MatRef::new(readout, self.d_head, self.n_direction)?;
            let mut out = MatMut {
                data: &mut out[head * self.n_direction..],
                rows,
                cols: self.n_direction,
                row_stride: out_stride,
            };
            product(z, readout, &mut out);
        }
        Ok(())
    }
}
