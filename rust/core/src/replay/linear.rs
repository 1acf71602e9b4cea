//! `x @ w + b`, and what follows it, while its rows are in cache.

use rayon::prelude::*;

use super::activation::Activation;
use super::weight::Weight;
use crate::Result;
use crate::kernels::check::{elements, same_axis, same_len};
use crate::kernels::matmul::{MatMut, MatRef, add_product, product};
use crate::vector::widest;

/// Rows that one task computes, about: each packs the weights for itself.
const ROW_BLOCK: usize = 384;
/// With fewer rows than this, tasks are cut along the columns.
const FEW_ROWS: usize = 96;
/// Columns that one task computes where there are few rows.
const COLUMN_BLOCK: usize = 384;
/// 16-bit weights that are widened at once.
const WIDENED: usize = 1 << 24;

/// What is done with each sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes through the activation function, into `out`.
    Put(Activation),
    /// What is in `out` is multiplied by it.
    Multiply,
    /// It is added to what is in `out`.
    Add,
}

/// Makes `x [row, in] @ weight [in, out] + bias [out]`, for `out [row, out]`, on all threads.
///
/// # Errors
/// If lengths disagree.
pub fn linear(
    x: &[f32],
    weight: Weight<'_>,
    bias: Option<&[f32]>,
    then: Then,
    out: &mut [f32],
) -> Result<()> {
    let (d_in, d_out) = weight.shape();
    if let Some(bias) = bias {
        same_axis("out", ("weight", d_out), ("bias", bias.len()))?;
    }
    let n_row = out.len().checked_div(d_out).unwrap_or(0);
    same_len("out", out.len(), elements(&[n_row, d_out])?)?;
    let x = MatRef::new(x, n_row, d_in)?;
    if out.is_empty() {
        return Ok(());
    }
    let after = After { bias, then };
    match weight {
        Weight::F32(w) => columns(x, w, 0, after, out),
        Weight::Half(halves) => {
            let step = (WIDENED / d_in.max(1)).clamp(1, d_out);
            let mut wide = Vec::new();
            for start in (0..d_out).step_by(step) {
                let cols = step.min(d_out - start);
                columns(x, halves.columns(start, cols, &mut wide)?, start, after, out);
            }
        }
    }
    Ok(())
}

/// The columns of `out` from `start` on that `w` makes.
fn columns(x: MatRef<'_>, w: MatRef<'_>, start: usize, after: After<'_>, out: &mut [f32]) {
    if x.rows() < FEW_ROWS && w.cols() > COLUMN_BLOCK {
        by_columns(x, w, start, after, out);
    } else {
        by_rows(x, w, start, after, out);
    }
}

/// The bias and what follows.
#[derive(Debug, Clone, Copy)]
struct After<'a> {
    bias: Option<&'a [f32]>,
    then: Then,
}

impl After<'_> {
    /// Finishes `sums`, columns `start ..` of some rows, into `out`, the same part of these rows.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "has to be compiled into the caller's vector loop")]
    fn finish(&self, start: usize, sums: &mut [f32], out: Option<&mut [f32]>) {
        if let Some(bias) = self.bias {
            for (sum, &bias) in sums.iter_mut().zip(&bias[start..]) {
                *sum += bias;
            }
        }
        if let Then::Put(activation) = self.then {
            activation.apply(sums);
        }
        match (self.then, out) {
            (_, None) => {}
            (Then::Put(_), Some(out)) => out.copy_from_slice(sums),
            (Then::Multiply, Some(out)) => {
                for (out, &sum) in out.iter_mut().zip(&*sums) {
                    *out *= sum;
                }
            }
            (Then::Add, Some(out)) => {
                for (out, &sum) in out.iter_mut().zip(&*sums) {
                    *out += sum;
                }
            }
        }
    }
}

/// Blocks of rows of one size, an even number of them: by the shape alone, so that results do not
/// depend on the number of threads.
fn by_rows(x: MatRef<'_>, w: MatRef<'_>, start: usize, after: After<'_>, out: &mut [f32]) {
    let (n_row, cols) = (x.rows(), w.cols());
    let n_out = out.len() / n_row;
    let blocks = n_row.div_ceil(ROW_BLOCK).next_multiple_of(2);
    let step = n_row.div_ceil(blocks);
    out.par_chunks_mut(step * n_out).enumerate().for_each(|(block, out)| {
        let rows = out.len() / n_out;
        let x = x.row_block(block * step, rows);
        if after.then == Then::Multiply {
            let mut sums = vec![0.0; rows * cols];
            product(x, w, &mut MatMut { data: &mut sums, rows, cols, row_stride: cols });
            widest!(
                for (sums, out) in sums.chunks_exact_mut(cols).zip(out.chunks_exact_mut(n_out)) {
                    after.finish(start, sums, Some(&mut out[start..start + cols]));
                }
            );
        } else {
            let put = if after.then == Then::Add { add_product } else { product };
            let data = &mut out[start..];
            put(x, w, &mut MatMut { data, rows, cols, row_stride: n_out });
            widest!(for out in out.chunks_exact_mut(n_out) {
                after.finish(start, &mut out[start..start + cols], None);
            });
        }
    });
}

/// Column blocks go through scratch: neighbouring blocks interleave in `out`.
fn by_columns(x: MatRef<'_>, w: MatRef<'_>, start: usize, after: After<'_>, out: &mut [f32]) {
    let rows = x.rows();
    let n_out = out.len() / rows;
    let parts: Vec<Vec<f32>> = (0..w.cols().div_ceil(COLUMN_BLOCK))
        .into_par_iter()
        .map(|block| {
            let first = block * COLUMN_BLOCK;
            let cols = COLUMN_BLOCK.min(w.cols() - first);
            let mut data = vec![0.0; rows * cols];
            let part = &mut MatMut { data: &mut data, rows, cols, row_stride: cols };
            product(x, w.col_block(first, cols), part);
            data
        })
        .collect();
    for (block, mut part) in parts.into_iter().enumerate() {
        let first = start + block * COLUMN_BLOCK;
        let cols = part.len() / rows;
        widest!(for (sums, out) in part.chunks_exact_mut(cols).zip(out.chunks_exact_mut(n_out)) {
            after.finish(first, sums, Some(&mut out[first..first + cols]));
        });
    }
}
